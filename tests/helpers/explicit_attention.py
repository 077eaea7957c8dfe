"""Attention, features and gradients of a small timm ViT by autograd through its own unfused softmax.

Nothing here goes through `scaled_dot_product_attention` or the package.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.helpers.families import tiny

# Two layers, two heads, tokens (class, p1, p2); rows are queries. `methods.md`, section 8.
A1 = torch.tensor(
    [[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], [[0.1, 0.6, 0.3], [0.3, 0.4, 0.3], [0.4, 0.4, 0.2]]]
).double()[None]
A2 = torch.tensor(
    [[[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]]]
).double()[None]
G1 = torch.tensor(
    [[[0.2, -0.1, 0.3], [0, 0.1, -0.2], [0.1, 0.1, 0.1]], [[0.05, 0.4, -0.3], [0.2, 0, 0.1], [-0.1, 0.3, 0.2]]]
).double()[None]
G2 = torch.tensor([[[0.3, 0.6, -0.2], [0, 0, 0], [0, 0, 0]], [[-0.1, 0.2, 0.4], [0, 0, 0], [0, 0, 0]]]).double()[
    None
]
CLASS = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)


def close(result: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    """Compare with hand-computed numbers."""
    expected = torch.as_tensor(expected, dtype=result.dtype)
    torch.testing.assert_close(result.squeeze(), expected.squeeze(), rtol=0, atol=tolerance)


def vit(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    """Three blocks of two heads, 3 x 3 patches, float64."""
    return tiny(name, **{"img_size": 48, "depth": 3, **options}).double()


def images(batch: int = 2, size: int = 48) -> Tensor:
    """Random images, float64."""
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


# Builder of a model, and the tokens that its output is read from.
READOUTS = {
    "token": (lambda: vit(), [0]),
    "distilled": (lambda: vit("deit_tiny_distilled_patch16_224"), [0, 1]),
    "avg": (lambda: vit(global_pool="avg"), list(range(1, 10))),
    "no class token": (lambda: vit(global_pool="avg", class_token=False), list(range(9))),
}


class Explicit(NamedTuple):
    """Attention, inputs and outputs of each block in one forward pass with unfused attention, in graph."""

    output: Tensor
    attentions: list[Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]

    def gradients(self, score: Tensor) -> list[Tensor]:
        """Compute dS/dA of each block; zero if the score does not depend on it."""
        return list(
            torch.autograd.grad(
                score.sum(), self.attentions, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )


def explicit(model: nn.Module, images: Tensor) -> Explicit:
    """Run a timm ViT with its softmax in the graph."""
    attentions: list[Tensor] = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    handles = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(given[0])
        outputs.append(output)

    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda m, i, output: attentions.append(output)))
        handles.append(block.register_forward_hook(keep))
    try:
        output = model(images.clone().requires_grad_())
    finally:
        for block in model.blocks:
            block.attn.fused_attn = True
        for handle in handles:
            handle.remove()
    return Explicit(output, attentions, inputs, outputs)


def integrated(
    model: nn.Module, images: Tensor, score: Callable[[Tensor], Tensor], steps: int
) -> list[list[list[list[float]]]]:
    """Compute (1/m) Σ_k dS/dA_{L-1} at k/(m-1) x, as nested lists (batch, heads, queries, keys)."""
    total: Tensor = torch.zeros(())
    for k in range(steps):
        seen = explicit(model, images * (k / (steps - 1) if steps > 1 else 1))
        total = total + seen.gradients(score(seen.output))[-1] / steps
    return total.tolist()


def positive_mean(gradient: list[list[list[float]]], query: int, key: int) -> float:
    """Compute mean_h max(G_h, 0) at one entry."""
    return sum(max(head[query][key], 0.0) for head in gradient) / len(gradient)


def explicit_layers(model: nn.Module, images: Tensor, target: int) -> list[tuple[Tensor, Tensor]]:
    """Compute (A, dS/dA) per layer by autograd through the model's own unfused softmax."""
    seen = explicit(model, images)
    gradients = seen.gradients(seen.output[:, target])
    return [(a.detach(), g) for a, g in zip(seen.attentions, gradients, strict=True)]
