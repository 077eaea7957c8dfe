"""`exclude_sinks`: the columns of a planted sink are left out of U, windows, fields and rollout."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from tests.helpers.explaining import observed
from tests.helpers.families import Family
from tests.helpers.planted import GRID, SIZE, looking_model, painted
from vit_interactions import (
    AttentionRollout,
    IndiscriminativePatches,
    InteractionUncertainty,
    ResponsiveFieldSize,
    ResponsiveFieldTendency,
    attention_sinks,
    interaction_curve,
    record_attention,
    responsive_field,
)
from vit_interactions.functional import relevant_pairs, uncertainty

SINK = 1 * 4 + 2
METHODS = [
    InteractionUncertainty,
    IndiscriminativePatches,
    ResponsiveFieldSize,
    ResponsiveFieldTendency,
    AttentionRollout,
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Build a model whose heads attend to green, with queries, keys and values that also depend on the place."""
    model: Any = looking_model(GRID, looks_for=1, silent=(3, 3))
    with torch.no_grad():
        model.pos_embed[0, 1:, 0] = torch.linspace(0.1, 0.5, 16)
        for block in model.blocks:
            block.attn.qkv.weight.view(3, 2, 3, 6)[1, :, 0, 0] = 1.0
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Paint two images, of which the first has a sink."""
    black = torch.zeros(1, 3, SIZE, SIZE)
    return torch.cat([painted(black, (1, 2), 1, value=2.0), black])


def test_the_columns_of_u_are_zero_and_all_else_is_unchanged(model: nn.Module, images: Tensor) -> None:
    assert attention_sinks(model, images).patches.nonzero().tolist() == [[0, SINK]]
    plain = InteractionUncertainty(model).uncertainty(images)
    without = InteractionUncertainty(model, exclude_sinks=True).uncertainty(images)
    assert plain[0, :15, SINK].min() > 0  # the last patch attends uniformly
    expected = plain.clone()
    expected[0, :, SINK] = 0.0
    assert torch.equal(without, expected)


@pytest.mark.parametrize("method", [InteractionUncertainty, ResponsiveFieldSize])
def test_default_maps_are_those_of_u_itself(method: Any, family: Family) -> None:
    model, inputs = family.build(), family.images(batch=2)
    with record_attention(model) as record, torch.no_grad():
        model(inputs)
    plain = InteractionUncertainty(model).uncertainty(inputs)
    expected = uncertainty([record.attention(layer) for layer in range(family.layers)], family.prefix)
    torch.testing.assert_close(plain, expected)
    explainer = method(model)
    assert torch.equal(
        explainer.patch_map(inputs).flatten(1),
        explainer.map_of(InteractionUncertainty(model).interactions(inputs)),
    )


def test_maps_of_columns_show_zero_and_rows_stay(model: nn.Module, images: Tensor) -> None:
    explainer = InteractionUncertainty(model, exclude_sinks=True)
    shown = explainer.patch_map(images)
    assert shown[0, 1, 2] == 0
    assert shown.flatten().count_nonzero() == 31
    row = explainer.patch_map(images, patch=(1, 2)).flatten(1)
    plain = InteractionUncertainty(model).patch_map(images, patch=(1, 2)).flatten(1)
    assert row[0, SINK] == 0
    assert torch.equal(row[:, :SINK], plain[:, :SINK])
    assert IndiscriminativePatches(model, exclude_sinks=True).patch_map(images)[0, 1, 2] == 0


def test_a_sink_is_not_ranked_among_the_indiscriminative_patches(model: nn.Module, images: Tensor) -> None:
    dropped = IndiscriminativePatches(model, exclude_sinks=True).dropped(images, beta=1.0)
    assert (~dropped).nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_windows_are_not_opened_by_a_sink(model: nn.Module, images: Tensor, alpha: float) -> None:
    explainer = ResponsiveFieldSize(model, alpha, 0.2, exclude_sinks=True)
    exclude = attention_sinks(model, images).patches
    values = InteractionUncertainty(model).uncertainty(images)
    expected = responsive_field(values, GRID, alpha, 0.2, exclude=exclude)
    found = explainer.field(images)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.windows, expected.windows)
    assert torch.equal(explainer.patch_map(images).flatten(1), expected.size.float())
    others = [patch for patch in range(16) if patch != SINK]
    assert not found.candidates[0, others, SINK].any()  # type: ignore[index]
    assert found.candidates[0, SINK, SINK]  # type: ignore[index]
    assert relevant_pairs(values, alpha)[0, others, SINK].any(), "the sink would have opened windows"
    tendency = ResponsiveFieldTendency(model, alpha, 0.2, exclude_sinks=True).tendency(images)
    assert torch.equal(tendency.reshape(2, 16, 2), expected.tendency)
    curve = interaction_curve(model, images, [alpha], beta=0.2, exclude_sinks=True)
    assert torch.equal(curve.operations[:, 0], expected.operations)


@pytest.mark.parametrize("options", [{}, {"fusion": "max"}, {"start_layer": 1}, {"alpha": 0.5}], ids=str)
def test_rollout_shares_the_attention_to_the_sink(
    model: nn.Module, images: Tensor, options: dict[str, Any]
) -> None:
    with record_attention(model) as record, torch.no_grad():
        model(images)
    fused = []
    for layer in range(options.get("start_layer", 0), 2):
        attention = record.attention(layer).double()
        matrix = attention.amax(1) if options.get("fusion") == "max" else attention.mean(1)
        before = matrix[0].sum(-1)
        matrix[0, :, 1 + SINK] = 0.0
        matrix[0] *= (before / matrix[0].sum(-1)).unsqueeze(-1)
        fused.append(matrix)
    expected = references.rollout(fused, options.get("alpha", 1.0))[:, 0, 1:]
    result = AttentionRollout(model, **options, exclude_sinks=True).patch_map(images)
    assert result[0, 1, 2] == 0
    torch.testing.assert_close(result.flatten(1).double(), expected, rtol=1e-4, atol=1e-6)
    plain = AttentionRollout(model, **options).patch_map(images)
    assert plain[0].argmax() == SINK
    torch.testing.assert_close(result[1], plain[1])


@pytest.mark.parametrize("method", METHODS)
def test_without_sinks_nothing_is_left_out(method: Any, family: Family) -> None:
    model, inputs, _, _ = observed(family)
    sinks = attention_sinks(model, inputs)
    if not sinks.patches.any():
        torch.testing.assert_close(
            method(model, exclude_sinks=True).patch_map(inputs), method(model).patch_map(inputs)
        )


@pytest.mark.parametrize("method", METHODS)
def test_sinks_are_found_in_the_same_forward_pass(method: Any, model: nn.Module, images: Tensor) -> None:
    explainer = method(model, exclude_sinks=True)
    explainer.patch_map(images)  # the first call also probes the model
    passes: list[int] = []
    block: Any = model.get_submodule("blocks.0")
    forward = type(block).forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(block), "forward", counted)
        explainer.patch_map(images)
    assert len(passes) == 2  # one pass of two blocks


def test_sinks_are_found_only_if_they_are_excluded(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("sinks were looked for")

    monkeypatch.setattr("vit_interactions.explain.interaction_uncertainty.watch", fail)
    for kind in (InteractionUncertainty, IndiscriminativePatches, ResponsiveFieldSize):
        kind(model).patch_map(images)
        with pytest.raises(AssertionError, match="sinks were looked for"):
            kind(model, exclude_sinks=True).patch_map(images)
