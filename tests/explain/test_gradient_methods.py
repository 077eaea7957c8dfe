"""GMAR, gradient rollout, generic attention, AGCAM and attention Grad-CAM: the two-layer example, loops, laws."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explicit_attention import A1, A2, CLASS, G1, G2, close, explicit
from tests.helpers.families import FAMILIES
from vit_interactions.functional.attention import attention_scores
from vit_interactions.functional.chain import chain, chain_without_identity, horner
from vit_interactions.functional.gmar import head_weights, weighted_heads
from vit_interactions.functional.rollout import rollout

METHODS = [vi.GMAR, vi.GradientRollout, vi.GenericAttention, vi.AttentionGuidedCAM, vi.AttentionGradCAM]


@pytest.fixture
def model() -> nn.Module:
    return FAMILIES["vit"].build().double().eval()


@pytest.fixture
def images(model: nn.Module) -> Tensor:
    return torch.randn(2, 3, *FAMILIES["vit"].size, dtype=torch.float64)


def explicit_layers(model: nn.Module, images: Tensor, target: int) -> list[tuple[Tensor, Tensor]]:
    """(A, dS/dA) of each layer by autograd through the model's own unfused softmax."""
    seen = explicit(model, images)
    gradients = seen.gradients(seen.output[:, target])
    return [(a.detach(), g) for a, g in zip(seen.attentions, gradients, strict=True)]


def fused(norm: str) -> list[Tensor]:
    return [weighted_heads(a, head_weights(g, norm)) for a, g in ((A1, G1), (A2, G2))]  # type: ignore[arg-type]


def test_gmar_head_weights_of_the_two_layer_example() -> None:
    close(head_weights(G1, "l1"), [8 / 19, 11 / 19])
    close(head_weights(G2, "l1"), [11 / 18, 7 / 18])
    close(head_weights(G1, "l2"), [0.413526, 0.586474])
    close(head_weights(G2, "l2"), [0.604356, 0.395644])


def test_gmar_of_the_two_layer_example() -> None:
    top_down = fused("l1")[::-1]
    close(chain(CLASS, top_down, normalise=True), [0.472675, 0.312310, 0.215015])
    close(chain(CLASS, fused("l2")[::-1], normalise=True), [0.472572, 0.312639, 0.214789])
    close(chain(CLASS, top_down, normalise=False), [1.890702, 1.249240, 0.860058])
    close(horner(CLASS, top_down), [1.622281, 0.775556, 0.602164])
    close(horner(CLASS, fused("l1"), order="as_published"), [1.678421, 0.637456, 0.684123])


def test_the_other_methods_of_the_two_layer_example() -> None:
    gradient_rollout = [(a * g).mean(1).clamp(min=0) for a, g in ((A2, G2), (A1, G1))]
    close(chain(CLASS, gradient_rollout, normalise=True), [0.801048, 0.198381, 0.000571])
    generic = [(a * g).clamp(min=0).mean(1) for a, g in ((A2, G2), (A1, G1))]
    close(chain(CLASS, generic, normalise=False), [1.088675, 0.272, 0.075])


def test_chains_of_vectors_are_products_of_matrices() -> None:
    torch.manual_seed(2)
    matrices = [torch.rand(2, 5, 5).double() for _ in range(4)]
    readout = torch.rand(2, 5).double()
    identity = torch.eye(5).double()
    product = identity
    recursive = published = identity.expand(2, 5, 5)
    for matrix in matrices:
        residual = matrix + 0.7 * identity
        product = residual / residual.sum(-1, keepdim=True) @ product
        recursive = matrix @ recursive + 0.7 * identity  # R <- A R + alpha I
        published = published @ matrix + 0.7 * identity  # R <- R A + alpha I
    row = readout[:, None]
    assert torch.allclose(chain(readout, matrices[::-1], 0.7, normalise=True), (row @ product)[:, 0])
    without = chain(readout, matrices[::-1], normalise=False) - readout
    assert torch.allclose(chain_without_identity(readout, matrices[::-1]), without)
    assert torch.allclose(horner(readout, matrices[::-1], 0.7), (row @ recursive)[:, 0])
    assert torch.allclose(horner(readout, matrices, 0.7, "as_published"), (row @ published)[:, 0])


def by_definition(method: type[vi.Explainer], layers: list[tuple[Tensor, Tensor]], scores: list[Tensor]) -> Tensor:
    """Each method's map of a class-token model, written out with whole matrices and Python loops over layers."""
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


@pytest.mark.parametrize("scope", ["per_layer", "last_layer"])
@pytest.mark.parametrize("score_from", ["attention", "head_output"])
@pytest.mark.parametrize("order", ["top_down", "as_published"])
@pytest.mark.parametrize("residual", ["product", "horner"])
def test_gmar_options(
    residual: str, order: str, score_from: str, scope: str, model: nn.Module, images: Tensor
) -> None:
    layers = explicit_layers(model, images, target=1)
    with vi.record_attention(model) as record:
        output = model(images.clone().requires_grad_())
    sources = [g for _, g in layers] if score_from == "attention" else list(record.output_grads(output[:, 1]))
    weights = []
    for source in sources:
        norms = source.abs().sum((-2, -1))
        weights.append(norms / norms.sum(1, keepdim=True))
    if scope == "last_layer":
        weights = [weights[-1]] * len(weights)
    matrices = [(w[..., None, None] * a).sum(1) for w, (a, _) in zip(weights, layers, strict=True)]
    identity = torch.eye(matrices[0].shape[-1], dtype=torch.float64)
    product = identity.expand_as(matrices[0])
    for matrix in matrices:
        factor = matrix + 0.5 * identity if residual == "product" else matrix
        product = factor @ product if order == "top_down" else product @ factor
        product = product + 0.5 * identity if residual == "horner" else product
    method = vi.GMAR(
        model,
        "l1",
        alpha=0.5,
        residual=residual,
        order=order,
        row_norm=False,
        score_from=score_from,
        scope=scope,  # type: ignore[arg-type]
    )
    assert torch.allclose(method.patch_map(images, target=1).flatten(1), product[:, 0, 1:], rtol=1e-5, atol=1e-9)


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


def test_gmar_follows_the_one_head_that_matters(model: nn.Module, images: Tensor) -> None:
    for block in model.blocks:
        block.attn.proj.weight.data[:, block.attn.head_dim :] = 0
    with torch.no_grad(), vi.record_attention(model) as record:
        model(images)
    layers = [call.attention()[:, 0] for call in record.calls]
    readout = torch.zeros(layers[0].shape[-1], dtype=torch.float64)
    readout[0] = 1
    result = vi.GMAR(model).patch_map(images, target=1).flatten(1)
    assert torch.allclose(result, rollout(layers, readout)[:, 1:])


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
    with pytest.raises(ValueError, match=r"`target` must be a class index .* but got None"):
        method(model).patch_map(images)
    with pytest.raises(ValueError, match=r"must compute one score per image, \(batch,\), got torch.float64"):
        method(model).patch_map(images, target=lambda output: output)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: vi.GMAR(m, "l3"), "`norm` must be one of 'l1', 'l2', but got 'l3'"),
        (lambda m: vi.GMAR(m, order="up"), "`order` must be one of"),
        (lambda m: vi.GMAR(m, residual="none"), "`residual` must be one of"),
        (lambda m: vi.GMAR(m, scope="all"), "`scope` must be one of"),
        (lambda m: vi.GMAR(m, score_from="value"), "`score_from` must be one of"),
        (lambda m: vi.GMAR(m, alpha=-1), "`alpha` must be finite and >= 0, but got -1"),
        (lambda m: vi.GradientRollout(m, discard=2), r"`discard` must lie in \[0, 1\]"),
        (lambda m: vi.GenericAttention(m, start_layer=-1), "`start_layer` must be >= 0"),
        (lambda m: vi.GenericAttention(m, start_layer=0.5), "`start_layer` must be an int, but got 0.5"),
    ],
)
def test_options_outside_their_range(make: Callable[[nn.Module], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(timm.create_model("test_vit"))


def test_discarding_and_starting_later(model: nn.Module, images: Tensor) -> None:
    assert not torch.allclose(
        vi.GradientRollout(model, discard=0.9).patch_map(images, target=1),
        vi.GradientRollout(model).patch_map(images, target=1),
    )
    layers = explicit_layers(model, images, target=1)
    last = torch.relu(layers[-1][0] * layers[-1][1]).mean(1)[:, 0, 1:]
    start = len(layers) - 1
    result = vi.GenericAttention(model, start_layer=start).patch_map(images, target=1).flatten(1)
    assert torch.allclose(result, last)
    with pytest.raises(ValueError, match=f"`start_layer` must be < {start + 1}"):
        vi.GenericAttention(model, start_layer=start + 1).patch_map(images, target=1)


def test_relevance_that_overflows_is_told(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="the relevance of the patches is not finite"):
        vi.GenericAttention(model).patch_map(images, target=lambda output: output[:, 0] * torch.inf)


def test_generic_attention_of_averaging_models_leaves_the_identity_out() -> None:
    family = FAMILIES["dinov3"]
    model = family.build().double().eval()
    images = torch.randn(1, 3, *family.size, dtype=torch.float64)
    with pytest.warns(vi.ZeroMapWarning):
        result = vi.GenericAttention(model).patch_map(images, target=lambda output: 0 * output.sum(1))
    assert (result == 0).all()


@pytest.mark.parametrize("method", [vi.GenericAttention, vi.TransformerAttribution])
@pytest.mark.parametrize("family_name", ["reg4_gap", "siglip"])
def test_small_relevance_is_not_lost_beside_the_identity(method: type[vi.Explainer], family_name: str) -> None:
    # Where patches are read directly, the identity adds 1/16 to each, beside which 1e-9 would be rounded away.
    family = FAMILIES[family_name]
    model, images = family.build(), family.images()
    result = method(model).patch_map(images, target=lambda output: 1e-7 * output[:, 1])
    exact = method(model.double()).patch_map(images.double(), target=lambda output: 1e-7 * output[:, 1])
    assert 0 < exact.max() < 1e-8
    assert (result - exact).abs().max() < 1e-3 * exact.max()
