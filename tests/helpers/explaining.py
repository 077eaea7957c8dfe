"""Shared code of the tests of explainers: small models, images, and comparisons of maps and states."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import Family, tiny


def small_vit(**options: Any) -> nn.Module:
    """Build a ViT of 4 x 4 patches, two layers, two heads."""
    return tiny("vit_tiny_patch16_224", **{"img_size": 64, **options})


def images(batch: int = 2, size: tuple[int, int] = (64, 64), seed: int = 1) -> Tensor:
    """Draw random images."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def observed(family: Family) -> tuple[nn.Module, Tensor, list[Tensor], Tensor]:
    """Return a family's model, images, float64 attention per layer, and readout row (the pooling head's, if any)."""
    model, inputs = family.build(), family.images()
    with torch.no_grad(), vi.record_attention(model) as record:
        model(inputs)
    attentions = [call.attention().double() for call in record.calls]
    if family.readout == "map":
        pool = record.pool_calls[0].attention().double()
        readout = torch.zeros(2, family.tokens).double()
        readout[:, family.tokens - pool.shape[-1] :] = (
            sum(pool[:, head, 0] for head in range(pool.shape[1])) / pool.shape[1]
        )
    else:
        readout = torch.zeros(2, family.tokens).double()
        read = {
            "token": [0],
            "distilled": [0, 1],
            "avg": list(range(0 if family.pool_prefix else family.prefix, family.tokens)),
        }[family.readout]
        for token in read:
            readout[:, token] = 1 / len(read)
    return model, inputs, attentions, readout


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value: variances of attention are of the order of 1e-6."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance * expected.abs().max().item()


def differs(actual: Tensor, expected: Tensor) -> bool:
    """Check whether two maps differ by more than rounding."""
    return (actual - expected).abs().max().item() > 1e-2 * expected.abs().max().item()


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model and its surroundings that an explainer must not change."""
    hooks = (
        *("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
        *("_backward_hooks", "_backward_pre_hooks"),
    )
    return {
        "training": [module.training for module in model.modules()],
        "flags": [getattr(m, f, None) for m in model.modules() for f in ("fused_attn", "grad_checkpointing")],
        "hooks": [dict(getattr(module, name)) for module in model.modules() for name in hooks],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "versions": [tensor._version for tensor in (*model.parameters(), *model.buffers())],
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "stance": torch.compiler.get_stance() if hasattr(torch.compiler, "get_stance") else None,
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare states part by part, tensors by value."""
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name in ("rng", "grad"):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
        else:
            assert after[name] == value, name


def lived_in_model() -> nn.Module:
    """Build a model with dropout, mixed modes and flags, some gradients, frozen parameters and a user's hook."""
    model = small_vit(depth=3, drop_rate=0.1, attn_drop_rate=0.2, proj_drop_rate=0.1, drop_path_rate=0.1).train()
    model(images()).sum().backward()
    model.blocks[1].eval()
    model.blocks[0].attn.fused_attn = False
    model.blocks[0].requires_grad_(False)
    model.head.weight.grad = None
    model.set_grad_checkpointing(True)
    model.blocks[1].register_forward_hook(lambda *_: None)
    return model


# Options under which the methods take small models of every readout.
OPTIONS: dict[type[vi.Explainer], dict[str, Any]] = {
    vi.DynamicAccumulatedAttention: {"readout": "model"},
    vi.TransitionAttention: {"start": 0, "steps": 3},
    vi.BeyondIntuition: {"start": 1, "steps": 3},
    vi.TIS: {"masks": 12},
}


def make(method: type[vi.Explainer], model: nn.Module, **options: Any) -> vi.Explainer:
    """Create a method with options under which it takes small models of every readout."""
    return method(model, **{**OPTIONS.get(method, {}), **options})


@dataclass(frozen=True)
class Row:
    """A row of the conformance table: an explainer with options.

    Attributes:
        name: the method's name in `vi.EXPLAINERS`, or that and its options.
        method: its class.
        options: further options.
    """

    name: str
    method: type[vi.Explainer]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> vi.Explainer:
        """Create the explainer for a model."""
        return make(self.method, model, **self.options)


ROWS = [
    *(Row(name, method) for name, method in vi.EXPLAINERS.items()),
    Row("gmar_head_output", vi.GMAR, {"score_from": "head_output"}),
    Row("beyond_intuition_token", vi.BeyondIntuition, {"variant": "token"}),
    Row("generic_attention_libra", vi.GenericAttention, {"gradient": "libra"}),
    Row("attention_guided_cam_libra", vi.AttentionGuidedCAM, {"gradient": "libra"}),
    Row("legrad_model", vi.LeGrad, {"pool": "model", "layers": "all"}),
]

OF_TOKENS = ("token_ablation", "tis")  # methods that mask tokens

# Every unsupported family, and words of the reason: no relevance rule for rotary embeddings, gates and windows.
REASONS = {
    # Masking a token does not remove it from the windows that are computed from all.
    **{(name, family): "window-free attention" for name in OF_TOKENS for family in ("winft", "winft_inf")},
    ("transformer_attribution", "dinov3"): "rotary",
    ("transformer_attribution", "dinov3_qkvb"): "rotary",
    ("transformer_attribution", "rope_mixed"): "rotary",
    ("transformer_attribution", "pe_map"): "rotary",
    ("transformer_attribution", "eva02"): "gate",
    ("transformer_attribution", "winft"): "window_free_attention",
    ("transformer_attribution", "winft_inf"): "window_free_attention",
    (
        "beyond_intuition_token",
        "parallel_scaling",
    ): "does not pass its attention's output directly to a linear layer",
}

CHOOSY = {row.method for row in ROWS for name, _ in REASONS if row.name == name and not row.options}
