"""Compute rollout and gradient-weighted rollout by hand, from the attention that other libraries' modules return."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import assert_near


def redraw(model: nn.Module, width: float = 0.5) -> nn.Module:
    """Redraw all matrices from one seed, wide enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * width / parameter.shape[-1] ** 0.5 * 3)
    return model.eval()


def assert_read_as_by_hand(
    model: nn.Module,
    images: Tensor,
    layers: Callable[[Any], list[nn.Module]],
    reads: Tensor,
    attention_of: Callable[[Any], Tensor] = lambda output: output,
    at: Callable[[Tensor], Any] = lambda attention: attention,
) -> None:
    """Compare rollout and generic attention with loops in float64 over what the modules themselves return.

    Args:
        model: in float32; its output, or the first part of it, is (batch, classes).
        images: (batch, 3, height, width).
        layers: returns the modules of a model whose outputs contain the attention, (batch, heads, tokens, tokens).
        reads: (tokens,) each token's share in the output.
        attention_of: returns the attention in such an output.
        at: returns the tensor or graph edge to differentiate by, if the attention is a view of it.
    """
    twin = copy.deepcopy(model).double()
    found: list[Tensor] = []
    for layer in layers(twin):
        layer.register_forward_hook(lambda _, __, output: found.append(attention_of(output)))
    output = twin(images.double())
    score = (output[0] if isinstance(output, tuple) else output)[:, 1].sum()
    pulled = torch.autograd.grad(score, [at(attention) for attention in found])
    gradients = [gradient.reshape_as(attention) for gradient, attention in zip(pulled, found, strict=True)]
    assert len(found) > 1
    assert (
        min(attention.detach().std().item() * attention.shape[-1] for attention in found) > 0.2
    )  # far from uniform
    patches = int((reads.numel() - 1) if reads[0] and not reads[1] else (reads > 0).sum())

    rolled = reads.double().expand(len(images), 1, -1)
    for attention in reversed(found):
        mixed = attention.mean(1) + torch.eye(len(reads), dtype=torch.float64)
        rolled = rolled @ (mixed / mixed.sum(-1, keepdim=True))
    relevance = reads.double().expand(len(images), 1, -1)
    for attention, gradient in zip(found[::-1], gradients[::-1], strict=True):
        relevance = relevance + relevance @ (attention * gradient).clamp(min=0).mean(1)
    relevance = relevance - reads  # without the identity in R
    for explainer, expected in ((vi.AttentionRollout(model), rolled), (vi.GenericAttention(model), relevance)):
        target = (
            (lambda out: (out[0] if isinstance(out, tuple) else out)[:, 1]) if explainer.class_specific else None
        )
        got = explainer.patch_map(images, target)
        assert_near(got.flatten(1), expected[:, 0, -patches:].detach().float(), 1e-5)


def class_token(tokens: int) -> Tensor:
    """Return readout weights (tokens,) of the class token alone."""
    return torch.eye(tokens)[0]
