"""Tests of methods that use gradients, against their definitions: the two-layer example, loops, and properties."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explicit_attention import A1, A2, CLASS, G1, G2, close, explicit_layers
from vit_interactions.functional.attention import attention_scores
from vit_interactions.functional.chain import chain
from vit_interactions.functional.rollout import rollout

METHODS = [vi.GMAR, vi.GradientRollout, vi.GenericAttention, vi.AttentionGuidedCAM, vi.AttentionGradCAM]


def test_the_other_methods_of_the_two_layer_example() -> None:
    gradient_rollout = [(a * g).mean(1).clamp(min=0) for a, g in ((A2, G2), (A1, G1))]
    close(chain(CLASS, gradient_rollout, normalize=True), [0.801048, 0.198381, 0.000571])
    generic = [(a * g).clamp(min=0).mean(1) for a, g in ((A2, G2), (A1, G1))]
    close(chain(CLASS, generic, normalize=False), [1.088675, 0.272, 0.075])


def by_definition(method: type[vi.Explainer], layers: list[tuple[Tensor, Tensor]], scores: list[Tensor]) -> Tensor:
    """Compute a method's map of a class-token model with full matrices and Python loops over layers."""
    tokens = layers[0][0].shape[-1]
    identity = torch.eye(tokens, dtype=torch.float64)
    product = identity.expand(layers[0][0].shape[0], tokens, tokens)
    total = torch.zeros(layers[0][0].shape[0], tokens, dtype=torch.float64)
    for (attention, gradient), score in zip(layers, scores, strict=True):
        if method is vi.GMAR:
            norms = gradient.pow(2).sum((-2, -1)).sqrt()
            weights = norms / norms.sum(1, keepdim=True)
            factor = (weights[..., None, None] * attention).sum(1) + identity
            product = factor / factor.sum(-1, keepdim=True) @ product
        elif method is vi.GradientRollout:
            factor = torch.relu((attention * gradient).mean(1)) + identity
            product = factor / factor.sum(-1, keepdim=True) @ product
        elif method is vi.GenericAttention:
            product = product + torch.relu(attention * gradient).mean(1) @ product
        else:
            total += (torch.relu(gradient[:, :, 0]) * torch.sigmoid(score[:, :, 0])).sum(1)
    if method is vi.AttentionGuidedCAM:
        return total[:, 1:]
    if method is vi.AttentionGradCAM:
        attention, gradient = layers[-1]
        weights = gradient[:, :, 0, 1:].mean(-1)
        return torch.relu((weights[..., None] * attention[:, :, 0, 1:]).mean(1))
    return product[:, 0, 1:]


@pytest.mark.parametrize("method", METHODS)
def test_methods_equal_their_definitions(method: type[vi.Explainer], model: nn.Module, images: Tensor) -> None:
    with torch.no_grad(), vi.record_attention(model) as record:
        model(images)
    scores = [attention_scores(call.query, call.key) for call in record.calls]
    seen_values = False
    for target in range(3):
        expected = by_definition(method, explicit_layers(model, images, target), scores)
        result = method(model).patch_map(images, target=target).flatten(1)
        assert torch.allclose(result, expected, rtol=1e-9, atol=1e-12)
        seen_values |= bool((expected > 1e-6).any())
    assert seen_values


def scaled_head(model: nn.Module, factor: float, shift: float = 0.0) -> None:
    model.head.weight.data.mul_(factor)
    model.head.bias.data.mul_(factor).add_(shift)


@pytest.mark.parametrize("method", METHODS)
def test_scale_sign_and_shift_of_the_score(method: type[vi.Explainer], model: nn.Module, images: Tensor) -> None:
    explainer = method(model)
    before = explainer.patch_map(images, target=2)
    scaled_head(model, 1.0, shift=5.0)
    assert torch.allclose(explainer.patch_map(images, target=2), before)
    scaled_head(model, 3.0)
    after = explainer.patch_map(images, target=2)
    if method is vi.GMAR:
        assert torch.allclose(after, before)
    elif method in (vi.AttentionGuidedCAM, vi.AttentionGradCAM):
        assert torch.allclose(after, 3 * before)
    else:
        assert not torch.allclose(after, before, rtol=1e-3)
    negative = explainer.patch_map(images, target=lambda output: -output[:, 2])
    assert torch.allclose(negative, after) == (method is vi.GMAR)
    assert not torch.allclose(explainer.patch_map(images, target=0), after)


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
@pytest.mark.parametrize("method", METHODS)
def test_zero_gradients_give_no_nan(method: type[vi.Explainer], model: nn.Module, images: Tensor) -> None:
    result = method(model).patch_map(images, target=lambda output: 0 * output[:, 0])
    assert result.isfinite().all()
    if method is vi.GMAR:
        with torch.no_grad(), vi.record_attention(model) as record:
            model(images)
        layers = [call.attention().mean(1) for call in record.calls]
        readout = torch.zeros(layers[0].shape[-1], dtype=torch.float64)
        readout[0] = 1
        assert torch.allclose(result.flatten(1), rollout(layers, readout)[:, 1:])
    else:
        assert (result == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "target", [4, [4, 1], torch.tensor([4, 1]), "pred", lambda output: output[:, 4] - output[:, 1]]
)
def test_targets(method: type[vi.Explainer], target: object, model: nn.Module, images: Tensor) -> None:
    explainer = method(model)
    both = explainer.patch_map(images, target=target)
    for index in range(2):
        one: object = target
        if isinstance(target, list | Tensor):
            one = int(target[index])
        elif target == "pred":
            one = int(model(images[index : index + 1]).argmax())
        assert torch.allclose(both[index], explainer.patch_map(images[index : index + 1], target=one)[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_target_is_needed(method: type[vi.Explainer], model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`target` must be a class index .* got None"):
        method(model).patch_map(images)
    with pytest.raises(ValueError, match=r"must compute one score per image, \(batch,\), got torch.float64"):
        method(model).patch_map(images, target=lambda output: output)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: vi.GMAR(m, "l3"), "`norm` must be one of 'l1', 'l2', got 'l3'"),
        (lambda m: vi.GMAR(m, order="up"), "`order` must be one of"),
        (lambda m: vi.GMAR(m, residual="none"), "`residual` must be one of"),
        (lambda m: vi.GMAR(m, scope="all"), "`scope` must be one of"),
        (lambda m: vi.GMAR(m, score_from="value"), "`score_from` must be one of"),
        (lambda m: vi.GMAR(m, alpha=-1), "`alpha` must be finite and >= 0, got -1"),
        (lambda m: vi.GradientRollout(m, discard=2), r"`discard` must lie in \[0, 1\]"),
        (lambda m: vi.GenericAttention(m, start_layer=-1), "`start_layer` must be >= 0"),
        (lambda m: vi.GenericAttention(m, start_layer=0.5), "`start_layer` must be an int, got 0.5"),
    ],
)
def test_options_outside_their_range(make: Callable[[nn.Module], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(timm.create_model("test_vit"))
