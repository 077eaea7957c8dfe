"""Attention rollout: values computed by hand, limits, and the vector chain against the product of the matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import references
from vit_interactions.functional import discard_smallest, fuse_heads, rollout
from vit_interactions.functional.rollout import without_columns

# Two layers, two heads, tokens (class, p1, p2); rows are queries. Solved by hand, checked by exact fractions.
FIRST = [[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], [[0.1, 0.6, 0.3], [0.3, 0.4, 0.3], [0.4, 0.4, 0.2]]]
SECOND = [
    [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]],
    [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]],
]
LAYERS = [torch.tensor([heads], dtype=torch.float64) for heads in (FIRST, SECOND)]
CLASS_TOKEN = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def roll(fusion: Any = "mean", discard: float = 0.0, alpha: float = 1.0) -> Tensor:
    """Roll the example out from the class token."""
    fused = [discard_smallest(fuse_heads(layer, fusion), discard) for layer in LAYERS]
    return rollout(fused, CLASS_TOKEN, alpha=alpha)[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4925, 0.3, 0.2075]),
        ({"alpha": 0.0}, [0.27, 0.45, 0.28]),
        ({"fusion": "max"}, [0.465278, 0.319444, 0.215278]),
        ({"fusion": "min"}, [0.539063, 0.265625, 0.195313]),
        ({"discard": 0.34}, [0.5425, 0.3525, 0.105]),
    ],
)
def test_the_hand_solved_example(options: dict[str, Any], expected: list[float]) -> None:
    torch.testing.assert_close(roll(**options), torch.tensor(expected).double(), rtol=0, atol=6e-7)


def test_the_example_by_hand_step_by_step() -> None:
    # Mean heads: class row of layer 2 is (.4, .3, .3); with the residual (.7, .15, .15).
    # Layer 1: rows (.3, .45, .25), (.2, .6, .2), (.3, .3, .4); with the residual (.65, .225, .125), (.1, .8, .1),
    # (.15, .15, .7). .7·.65 + .15·.1 + .15·.15 = .4925, and so on.
    torch.testing.assert_close(roll(), torch.tensor([0.4925, 0.3, 0.2075]).double())


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_uniform_attention(layers: int) -> None:
    tokens = 7
    uniform = [torch.full((1, tokens, tokens), 1 / tokens, dtype=torch.float64)] * layers
    result = rollout(uniform, torch.eye(tokens).double()[0])[0]
    patch = (1 - 2.0**-layers) / tokens
    own = 1 / tokens + 2.0**-layers * (1 - 1 / tokens)
    torch.testing.assert_close(result, torch.tensor([own] + [patch] * (tokens - 1)).double())


def test_identity_attention_gives_patches_zero_and_never_nan() -> None:
    identity = [torch.eye(5).double()[None]] * 3
    assert rollout(identity, torch.eye(5).double()[0])[0].tolist() == [1, 0, 0, 0, 0]


def test_one_hot_attention_is_propagated_to_its_source() -> None:
    # Without the residual: token 0 attends to 2 in the last layer, and 2 attends to 3 in the first.
    last, first = torch.eye(4)[[2, 3, 1, 0]][None], torch.eye(4)[[2, 0, 3, 1]][None]
    token_0 = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert rollout([first, last], token_0, alpha=0.0)[0].tolist() == [0, 0, 0, 1]
    # With the layers in the wrong order: 0 attends to 2, and 2 attends to 1.
    assert rollout([last, first], token_0, alpha=0.0)[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_equals_the_product_of_whole_matrices_and_rows_sum_to_one(
    fusion: Any, discard: float, alpha: float
) -> None:
    attentions = [(3 * torch.randn(2, 3, 6, 6, dtype=torch.float64)).softmax(-1) for _ in range(4)]
    fused = [discard_smallest(fuse_heads(attention, fusion), discard) for attention in attentions]
    expected = references.rollout(fused, alpha)
    for token in range(6):
        row = rollout(fused, torch.eye(6).double()[token], alpha=alpha)
        torch.testing.assert_close(row, expected[:, token], rtol=1e-10, atol=1e-12)
        if alpha or not discard:
            torch.testing.assert_close(row.sum(-1), torch.ones(2).double())
    readout = torch.rand(2, 6).double()
    mixed = rollout(fused, readout, alpha=alpha)
    torch.testing.assert_close(mixed, (readout.unsqueeze(1) @ expected).squeeze(1), rtol=1e-10, atol=1e-12)


def test_a_row_of_zeros_stays_zero_and_not_nan() -> None:
    attention = torch.tensor([[[0.0, 0.0], [0.5, 0.5]]])
    assert rollout([attention], torch.tensor([1.0, 0.0]), alpha=0.0).tolist() == [[0.0, 0.0]]
    assert rollout([attention], torch.tensor([1.0, 0.0]), alpha=1.0).tolist() == [[1.0, 0.0]]


def test_permuting_the_patches_permutes_the_map() -> None:
    attentions = [torch.rand(1, 5, 5).softmax(-1) for _ in range(3)]
    order = torch.tensor([0, 3, 1, 4, 2])
    permuted = [attention[:, order][:, :, order] for attention in attentions]
    readout = torch.eye(5)[0]
    torch.testing.assert_close(rollout(permuted, readout), rollout(attentions, readout)[:, order])


def test_fusions_by_hand() -> None:
    attention = torch.tensor([[[[0.25, 0.75]], [[0.75, 0.25]], [[0.5, 0.5]]]])
    assert fuse_heads(attention, "mean").tolist() == [[[0.5, 0.5]]]
    assert fuse_heads(attention, "max").tolist() == [[[0.75, 0.75]]]
    assert fuse_heads(attention, "min").tolist() == [[[0.25, 0.25]]]


def test_discard_drops_the_smallest_entries_per_sample_except_the_first() -> None:
    attention = torch.tensor([[[0.1, 0.9], [0.3, 0.7]], [[0.8, 0.2], [0.6, 0.4]]])
    assert discard_smallest(attention, 0.0).equal(attention)
    kept = discard_smallest(attention, 0.5)
    torch.testing.assert_close(kept, torch.tensor([[[0.1, 0.9], [0, 0.7]], [[0.8, 0], [0.6, 0]]]))
    plain = discard_smallest(attention, 0.5, keep_first=False)
    torch.testing.assert_close(plain, torch.tensor([[[0, 0.9], [0, 0.7]], [[0.8, 0], [0.6, 0]]]))
    # floor(0.49 · 4) = 1
    assert discard_smallest(attention, 0.49, keep_first=False).eq(0).sum((1, 2)).tolist() == [1, 1]
    assert discard_smallest(attention, 1.0).flatten(1).tolist()[1] == [attention[1, 0, 0].item(), 0, 0, 0]
    assert attention[0, 0, 0] == 0.1 * torch.ones(())  # the argument is unchanged


def test_ties_discard_the_lowest_flat_index() -> None:
    attention = torch.full((1, 3, 3), 1 / 3)
    gone = discard_smallest(attention, 4 / 9, keep_first=False).eq(0).flatten()
    assert gone.tolist() == [True] * 4 + [False] * 5


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        rollout([], torch.ones(3))
    for alpha in (-0.5, float("nan")):
        with pytest.raises(ValueError, match=r"`alpha` must be finite and >= 0, got"):
            rollout([torch.eye(3)[None]], torch.ones(3), alpha=alpha)
    with pytest.raises(ValueError, match="`fusion` must be one of 'mean', 'max', 'min', got 'median'"):
        fuse_heads(torch.zeros(1, 2, 3, 3), "median")  # type: ignore[arg-type]
    for ratio in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(ValueError, match=r"`discard` must lie in \[0, 1\]"):
            discard_smallest(torch.zeros(1, 3, 3), ratio)


def test_excluded_columns_are_shared_among_the_others() -> None:
    attention = torch.rand(2, 5, 5, dtype=torch.float64)
    exclude = torch.tensor([[False, True, False, False, True], [False] * 5])
    result = without_columns(attention, exclude)
    for image in range(2):
        kept = [token for token in range(5) if not exclude[image, token]]
        for query in range(5):
            row = attention[image, query].tolist()
            left = sum(row[token] for token in kept)
            expected = [row[token] * sum(row) / left if token in kept else 0.0 for token in range(5)]
            torch.testing.assert_close(result[image, query], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(
        without_columns(attention, exclude)[0, :, exclude[0]], torch.zeros(5, 2, dtype=torch.float64)
    )
    only = torch.zeros(1, 2, 2)
    only[0, :, 0] = 1.0
    assert not without_columns(only, torch.tensor([[True, False]])).any()
