"""U (Eqs. 2, 3): against loops, against cases solved by hand, and streamed against all at once."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import references
from vit_interactions import record_attention
from vit_interactions.functional import RunningUncertainty, column_variance, uncertainty
from vit_interactions.functional import attention as attention_module
from vit_interactions.functional.attention import attention_rows

# The package's function of the same name hides the module.
uncertainty_module = importlib.import_module("vit_interactions.functional.uncertainty")


def random_attentions(
    layers: int, batch: int, heads: int, tokens: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return sharp random attention (layers, batch, heads, tokens, tokens)."""
    return (3 * torch.randn(layers, batch, heads, tokens, tokens, dtype=dtype)).softmax(-1)


@pytest.mark.parametrize(
    ("layers", "batch", "heads", "tokens", "prefix"),
    [(4, 1, 3, 9, 0), (3, 2, 2, 7, 1), (2, 3, 4, 11, 5), (1, 2, 3, 5, 1), (3, 2, 1, 6, 2)],
)
def test_equals_the_equations_written_as_loops(
    layers: int, batch: int, heads: int, tokens: int, prefix: int
) -> None:
    attentions = random_attentions(layers, batch, heads, tokens)
    expected = references.uncertainty(list(attentions), prefix)
    result = uncertainty(attentions, prefix)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(
        uncertainty(list(attentions.float()), prefix), expected.float(), rtol=1e-4, atol=1e-8
    )
    if layers > 1 and heads > 1:
        assert expected.max() > 1e-4, "uniform attention would prove nothing"


def test_equals_the_loops_on_the_attention_of_a_trained_model(
    trained_vit: nn.Module, real_images: Callable[[int], Tensor]
) -> None:
    with record_attention(trained_vit) as record, torch.no_grad():
        trained_vit(real_images(2))
    # The class token and 25 patches in a corner, for all layers and heads: softmax over all 197 tokens.
    chosen = [0] + [1 + 14 * row + col for row in range(5) for col in range(5)]
    corner = [record.attention(layer)[:, :, chosen][..., chosen] for layer in range(12)]
    expected = references.uncertainty(corner, prefix=1)
    torch.testing.assert_close(uncertainty(corner, prefix=1).double(), expected, rtol=1e-4, atol=1e-10)

    whole = uncertainty([record.attention(layer) for layer in range(12)], prefix=1)
    patches = torch.tensor(chosen[1:]) - 1
    torch.testing.assert_close(whole[:, patches][:, :, patches].double(), expected, rtol=1e-4, atol=1e-10)


def test_hand_solved() -> None:
    # One pair of patches seen by two heads in two layers. Head 0: 0 and 1, variance 1/4. Head 1: 1/2 and 1/2,
    # variance 0. Their mean is 1/8, so U = ((1/8)² + (1/8)²) / 2 = 1/64; dividing by L−1 or k−1 gives 1/8.
    attentions = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).view(2, 1, 2, 1, 1)
    assert uncertainty(attentions).item() == 1 / 64


def test_row_is_the_query_and_column_the_key() -> None:
    attentions = torch.zeros(2, 1, 2, 3, 3)
    attentions[0, 0, 0, 1, 2] = 1.0  # only head 0, in the first layer: patch 1 attends to patch 2
    expected = torch.zeros(1, 3, 3)
    expected[0, 1, 2] = 1 / 64
    assert torch.equal(uncertainty(attentions), expected)


@pytest.mark.parametrize("layers", [1, 2, 3, 7, 12])
def test_constant_attention_gives_exactly_zero(layers: int) -> None:
    once = random_attentions(1, 2, 3, 7, torch.float32)
    result = uncertainty(once.expand(layers, -1, -1, -1, -1), prefix=1)
    assert torch.equal(result, torch.zeros(2, 6, 6))


def test_equal_heads_give_zero_even_if_layers_differ() -> None:
    one_head = random_attentions(5, 1, 1, 6)
    assert uncertainty(one_head.expand(-1, -1, 4, -1, -1)).max() < 1e-30
    assert uncertainty(random_attentions(5, 1, 4, 6)).min() > 1e-12


def test_order_of_heads_and_layers_does_not_matter() -> None:
    attentions = random_attentions(5, 2, 4, 8)
    expected = uncertainty(attentions, prefix=1)
    for permuted in (attentions[[3, 0, 4, 1, 2]], attentions[:, :, [2, 3, 0, 1]]):
        torch.testing.assert_close(uncertainty(permuted, prefix=1), expected, rtol=1e-12, atol=1e-18)
    # Permuting heads in only one layer changes U.
    mixed = attentions.clone()
    mixed[0] = attentions[0][:, [1, 0, 3, 2]]
    assert (uncertainty(mixed, prefix=1) - expected).abs().max() > 1e-4


def test_permuting_the_patches_permutes_rows_and_columns() -> None:
    attentions = random_attentions(3, 1, 2, 6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    permuted = uncertainty(attentions[..., order, :][..., order])
    torch.testing.assert_close(permuted, uncertainty(attentions)[:, order][:, :, order], rtol=1e-12, atol=1e-18)


def test_prefix_tokens_are_omitted_without_renormalization() -> None:
    attentions = random_attentions(3, 1, 2, 7)
    torch.testing.assert_close(uncertainty(attentions, prefix=2), uncertainty(attentions)[:, 2:, 2:])


def test_a_large_common_offset_does_not_reduce_precision() -> None:
    # E[x²] − E[x]² in float32 would lose deviations of 1e-4 from 1.
    small = torch.rand(6, 1, 2, 4, 4, dtype=torch.float64) * 1e-4
    expected = references.uncertainty(list(small))
    result = uncertainty((0.999 + small).float())
    torch.testing.assert_close(result.double(), expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("elements", [1, 7, 40, 200, 10**6])
@pytest.mark.parametrize("prefix", [0, 2])
def test_streamed_in_blocks_equals_whole(monkeypatch: pytest.MonkeyPatch, elements: int, prefix: int) -> None:
    monkeypatch.setattr(attention_module, "CPU_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(uncertainty_module, "_FINISH_ROWS", 3)
    batch, heads, tokens = 2, 3, 8
    running, whole, cuts = RunningUncertainty(), [], 0
    for _ in range(4):
        query, key = 3 * torch.randn(2, batch, heads, tokens, 4, dtype=torch.float64)
        whole.append((query @ key.mT / 2).softmax(-1))
        blocks = [(index, rows[..., prefix:]) for index, rows in attention_rows(query, key, prefix=prefix)]
        cuts = len(blocks)
        running.update(blocks, (batch, heads, tokens - prefix, tokens - prefix))
    assert (cuts > 1) == (elements < 10**6)
    torch.testing.assert_close(running.result(), references.uncertainty(whole, prefix), rtol=1e-9, atol=1e-15)


def test_update_whole_leaves_the_attention_unchanged() -> None:
    first, second = random_attentions(2, 1, 2, 4)
    kept = first.clone(), second.clone()
    running = RunningUncertainty()
    running.update_whole(first)
    running.update_whole(second)
    assert torch.equal(first, kept[0])
    assert torch.equal(second, kept[1])


def test_layers_with_different_heads_raise_and_are_named() -> None:
    running = RunningUncertainty()
    running.update_whole(torch.zeros(1, 2, 4, 4), "blocks.0.attn")
    with pytest.raises(
        ValueError, match=r"`blocks.0.attn` .*\(1, 2, 4, 4\), but `blocks.1.attn` has \(1, 3, 4, 4\)"
    ):
        running.update_whole(torch.zeros(1, 3, 4, 4), "blocks.1.attn")
    with pytest.raises(
        ValueError, match=r"must have the same heads and patches: `layer 0` .* but `layer 1` has \(1, 2, 3, 3\)"
    ):
        uncertainty([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 3, 3)])


def test_no_layer_raises() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        uncertainty([])
    with pytest.raises(ValueError, match="at least one layer, got none"):
        RunningUncertainty().result()


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 2, 4, 5), (1, 1, 2, 4, 4)])
def test_invalid_attention_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=r"`attentions` must have shape \(batch, heads, tokens, tokens\) per layer, got .* in layer 0",
    ):
        uncertainty([torch.zeros(shape)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_attention_is_computed_in_float32(dtype: torch.dtype) -> None:
    attention = torch.randn(3, 1, 4, 30, 30).softmax(-1).to(dtype)
    result = uncertainty(attention)
    assert result.dtype == torch.float32
    assert torch.allclose(result, uncertainty(attention.float()))
    half = result.to(dtype)
    assert column_variance(half).dtype == torch.float32
    assert torch.equal(column_variance(half), column_variance(half.float()))
