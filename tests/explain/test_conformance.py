"""The promises that hold for every method, on every family: the methods of gradients, of flow, and the control.

`test_explainers.py` holds the methods of one forward pass to the same, and more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import (
    CHOOSY,
    METHODS,
    REASONS,
    assert_near,
    assert_same_state,
    images,
    lived_in_model,
    make,
    small_vit,
    state_of,
)
from tests.helpers.families import FAMILIES, Family
from vit_interactions.explain.registry import all_methods

# A model of random weights may speak against a class at every patch.
pytestmark = pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def explain(explainer: vi.Explainer, inputs: Tensor) -> Tensor:
    """Explain the sum of two outputs, which every model here has; skip what a choosy method refuses by name."""
    target = (lambda output: output[:, 0] + 2 * output[:, 1]) if explainer.class_specific else None
    try:
        result = explainer.patch_map(inputs, target)
        if isinstance(
            explainer, vi.AttentionGradCAM
        ):  # it keeps the evidence for a score, which there may be none of
            result = result - explainer.patch_map(inputs, lambda output: -output[:, 0] - 2 * output[:, 1])
        return result
    except vi.UnsupportedModelError as error:
        if type(explainer) not in CHOOSY:
            raise
        pytest.skip(str(error))


@every_method
def test_shape_batch_and_repetition(method: type[vi.Explainer], family: Family) -> None:
    model, inputs = family.build(), family.images(batch=2)
    explainer = make(method, model)
    together = explain(explainer, inputs)
    assert together.shape == (2, *family.grid)
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    assert not together.requires_grad
    assert together.flatten(1).std(1).min() > 0
    assert torch.equal(explain(explainer, inputs), together)
    alone = torch.cat([explain(explainer, image[None]) for image in inputs])
    assert_near(alone, together, 1e-4)


@every_method
def test_fused_and_unfused_models_agree(method: type[vi.Explainer], family: Family) -> None:
    model, inputs = family.build(), family.images(batch=1)
    fused = explain(make(method, model), inputs)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    assert_near(explain(make(method, model), inputs), fused, 1e-4)


class Folded(nn.Module):
    """Attention as of a timm block, with its heads folded into the batch: (batch · heads, tokens, width)."""

    def __init__(self, attention: Any) -> None:
        """Take the weights of one."""
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        """Attend."""
        split = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)
        output = F.scaled_dot_product_attention(*split).unflatten(0, (-1, self.num_heads))
        result: Tensor = self.proj(output.transpose(1, 2).flatten(2))
        return result


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "build",
    [*(partial(make, method) for method in METHODS.values()), partial(vi.GMAR, score_from="head_output")],
    ids=[*METHODS, "gmar_head_output"],
)
def test_heads_folded_into_the_batch_change_nothing(
    build: Callable[[nn.Module], vi.Explainer], batch: int
) -> None:
    model: Any = FAMILIES["vit"].build()
    inputs = FAMILIES["vit"].images(batch)
    expected = explain(build(model), inputs)
    for block in model.blocks:
        block.attn = Folded(block.attn)
    assert_near(explain(build(model), inputs), expected, 1e-4)


@every_method
def test_attribute_keeps_captums_contract(method: type[vi.Explainer]) -> None:
    inputs = images()
    explainer = make(method, small_vit())
    attribution = explainer.attribute(inputs, target=[1, 2])
    assert isinstance(attribution, Tensor)
    assert attribution.shape == inputs.shape
    assert attribution.dtype == torch.float32
    assert attribution.is_contiguous()
    assert not attribution.requires_grad
    (in_tuple,) = explainer.attribute((inputs,), target=[1, 2])
    assert torch.equal(in_tuple, attribution)
    with torch.no_grad():
        assert torch.equal(explainer.attribute(inputs, target=[1, 2]), attribution)
    noisy = NoiseTunnel(explainer).attribute(inputs, nt_samples=2, stdevs=0.1, target=1)
    assert noisy.shape == inputs.shape
    assert noisy.isfinite().all()


@every_method
def test_the_model_and_the_input_are_given_back(method: type[vi.Explainer]) -> None:
    model, inputs = lived_in_model(), images()
    before, kept = state_of(model), inputs.clone()
    make(method, model).attribute(inputs, target=1)
    assert_same_state(before, state_of(model))
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    assert inputs.grad is None


@every_method
def test_they_are_given_back_after_an_exception(method: type[vi.Explainer]) -> None:
    if method is vi.RandomMap:
        pytest.skip("the control does not run the model")
    model = lived_in_model()
    before = state_of(model)

    def failing(_: Any) -> Tensor:
        raise ZeroDivisionError("a failure of the user's own")

    with pytest.raises((IndexError, ZeroDivisionError)):
        make(method, model).attribute(images(), target=failing if method.class_specific else 99)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("name", all_methods())
def test_random_numbers_that_a_model_draws_are_given_back(name: str) -> None:
    model, inputs = small_vit(), images()
    drawn: list[Tensor] = []
    # A model that draws random numbers in evaluation too, in the last of its blocks.
    model.blocks[-1].attn.proj.register_forward_hook(lambda *args: drawn.append(torch.randn(1)))
    state = torch.get_rng_state()
    explain(make(all_methods()[name], model), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn


@every_method
def test_frozen_models_have_the_same_map(method: type[vi.Explainer]) -> None:
    model, inputs = small_vit(), images()
    expected = explain(make(method, model), inputs)
    model.requires_grad_(False)
    assert_near(explain(make(method, model), inputs), expected)


@every_method
def test_classes_matter_to_class_specific_methods_only(method: type[vi.Explainer]) -> None:
    explainer, inputs = make(method, small_vit()), images()
    one, other = explainer.patch_map(inputs, 1), explainer.patch_map(inputs, 3)
    assert torch.equal(one, other) != method.class_specific


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_give_finite_maps(method: type[vi.Explainer], dtype: torch.dtype) -> None:
    result = explain(make(method, small_vit().to(dtype)), images(1).to(dtype))
    assert result.isfinite().all()
    assert result.dtype in (torch.float32, torch.float64)


@every_method
def test_the_declarations_are_there(method: type[vi.Explainer]) -> None:
    assert isinstance(method.class_specific, bool)
    assert method.forwards >= 0
    assert method.backwards >= 0
    assert method.more_is_relevant
    assert method.quantity
    assert method.source


def test_exactly_these_methods_refuse_a_family_for_these_reasons(family: Family) -> None:
    model, inputs = family.build(), family.images(1)
    refused = {}
    for name, method in vi.EXPLAINERS.items():
        try:
            make(method, model).patch_map(inputs, (lambda output: output[:, 0]) if method.class_specific else None)
        except vi.UnsupportedModelError as error:
            refused[name] = str(error)
    reasons = {name: reason for (name, other), reason in REASONS.items() if other == family.name}
    assert refused.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in refused[name]


def test_the_refused_are_families() -> None:
    assert {family for _, family in REASONS} <= set(FAMILIES)


REFUSED = {
    "windows": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1, 1, 1)
    ),
    "no attention": lambda: timm.create_model("test_resnet"),
    "two maps a layer": lambda: timm.create_model("vit_dwee_patch16_reg1_gap_256", img_size=64, depth=1),
}


@every_method
@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_models_without_patch_attention_are_refused(method: type[vi.Explainer], build: Any) -> None:
    if not method.needs_attention:
        pytest.skip("needs no attention")
    with pytest.raises(vi.UnsupportedModelError):
        make(method, build().eval()).patch_map(
            torch.randn(1, 3, 64, 64), "pred" if method.class_specific else None
        )
