"""Window-free attention equals slow loops written from Eqs. 8 and 9, forward and backward, in float64."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_interactions.functional.window_free import (
    WINDOW_FILLS,
    WindowFree,
    token_window,
    window_free_attention,
    window_free_logits,
    window_free_loss,
    window_free_mask,
    windowed_probabilities,
)

every_fill = pytest.mark.parametrize("fill", WINDOW_FILLS)
every_prefix = pytest.mark.parametrize("prefix", [0, 1, 3])


def tokens(seed: int = 0, *, batch: int = 2, heads: int = 3, count: int = 7, width: int = 4) -> list[Tensor]:
    """Return queries, keys and values in float64 with sharp attention."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, count, width)
    return [1.5 * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(3)]


def slow_logit(query: Tensor, key: Tensor, image: int, i: int, j: int) -> float:
    """Eq. 8 for one pair of tokens: the mean over heads of q_i · k_j, without 1/√d."""
    query, key, heads = query.detach(), key.detach(), range(query.shape[1])
    products = [
        sum(float(q * k) for q, k in zip(query[image, h, i], key[image, h, j], strict=True)) for h in heads
    ]
    return sum(products) / len(products)


def slow_mask(query: Tensor, key: Tensor, prefix: int) -> Tensor:
    """Eq. 8: w' above the mean of its row, of the patches only."""
    batch, patches = query.shape[0], query.shape[2] - prefix
    mask = torch.zeros(batch, patches, patches, dtype=torch.bool)
    for image in range(batch):
        for i in range(patches):
            row = [slow_logit(query, key, image, i + prefix, j + prefix) for j in range(patches)]
            weights = [1 / (1 + math.exp(-logit)) for logit in row]
            for j in range(patches):
                mask[image, i, j] = weights[j] > sum(weights) / patches
    return mask


def slow_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, fill: str, scale: float) -> Tensor:
    """Eq. 9 pair by pair, in the graph of query, key and value; W is a constant."""
    prefix = query.shape[2] - mask.shape[-1]
    images = []
    for image, windows in enumerate(mask):
        heads = []
        for q, k, v in zip(query[image], key[image], value[image], strict=True):
            rows = []
            for i, q_i in enumerate(q):
                total, weighted = torch.zeros((), dtype=q.dtype), torch.zeros_like(v[0])
                for j, (k_j, v_j) in enumerate(zip(k, v, strict=True)):
                    among_patches = i >= prefix and j >= prefix
                    outside = among_patches and not windows[i - prefix, j - prefix]
                    if outside and fill == "-inf":
                        continue
                    power = torch.ones((), dtype=q.dtype) if outside else torch.exp(scale * q_i.dot(k_j))
                    total, weighted = total + power, weighted + power * v_j
                rows.append(weighted / total)
            heads.append(torch.stack(rows))
        images.append(torch.stack(heads))
    return torch.stack(images)


@every_prefix
def test_logits_are_the_mean_over_heads(prefix: int) -> None:
    query, key, _ = tokens()
    logits = window_free_logits(query[:, :, prefix:], key[:, :, prefix:])
    for image in range(2):
        for i in range(7 - prefix):
            for j in range(7 - prefix):
                expected = slow_logit(query, key, image, i + prefix, j + prefix)
                assert logits[image, i, j].item() == pytest.approx(expected, rel=1e-12)


def test_logits_are_float32_under_autocast_and_for_half_precision() -> None:
    query, key, _ = (tensor.float() for tensor in tokens())
    expected = window_free_logits(query, key)
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ key.mT).dtype == torch.bfloat16  # else this test proves nothing
        assert torch.equal(window_free_logits(query, key), expected)
    rounded = query.bfloat16(), key.bfloat16()
    assert torch.equal(window_free_logits(*rounded), window_free_logits(*(part.float() for part in rounded)))


@every_prefix
def test_masks_equal_the_definition(prefix: int) -> None:
    query, key, value = tokens(1)
    expected = slow_mask(query, key, prefix)
    assert 0.2 < expected.double().mean() < 0.8
    assert torch.equal(window_free_attention(query, key, value, prefix).mask, expected)


def test_the_threshold_is_strict() -> None:
    # The first row is sigmoid(0) = 1/2, 0 and 1, and its mean is 1/2.
    logits = torch.tensor([[-800.0, 0.0, 800.0], [3.0, 3.0, 3.0], [-1.0, -1.0, 5.0]], dtype=torch.float64)
    assert window_free_mask(logits).tolist() == [[False, False, True], [False, False, False], [False, False, True]]


def test_rows_of_equal_values_have_no_window_despite_rounding() -> None:
    values = torch.linspace(-9, 9, 500)
    rows = values[:, None].repeat(1, 196)
    weights = rows.sigmoid()
    assert (weights > weights.mean(-1, keepdim=True)).any()  # the mean is rounded, at times below the values
    assert not window_free_mask(rows).any()


def test_windows_have_no_gradient() -> None:
    logits = torch.randn(2, 5, 5, requires_grad=True)
    mask = window_free_mask(logits)
    assert mask.dtype == torch.bool
    assert not mask.requires_grad


@every_fill
@every_prefix
@pytest.mark.parametrize("scale", [None, 0.3])
def test_forward_and_backward_equal_the_slow_loops(fill: str, prefix: int, scale: float | None) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in tokens(2))
    weights = torch.randn(query.shape, dtype=torch.float64)
    attended = window_free_attention(query, key, value, prefix, fill, scale)
    expected = slow_attention(query, key, value, slow_mask(query, key, prefix), fill, scale or 0.5)
    torch.testing.assert_close(attended.output, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((attended.output * weights).sum(), (query, key, value))
    slow = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    for gradient, other in zip(gradients, slow, strict=True):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


@every_fill
def test_the_two_fills_differ_and_a_window_matters(fill: str) -> None:
    query, key, value = tokens(3)
    attended = window_free_attention(query, key, value, 1, fill).output
    other = window_free_attention(query, key, value, 1, *set(WINDOW_FILLS) - {fill}).output
    assert (attended - other).abs().max() > 0.1
    assert (attended - F.scaled_dot_product_attention(query, key, value)).abs().max() > 0.1


@every_fill
def test_derivatives_equal_finite_differences(fill: str) -> None:
    query, key, value = (tensor.requires_grad_() for tensor in tokens(4, batch=1, heads=2, count=4, width=2))

    def output(*parts: Tensor) -> Tensor:
        return window_free_attention(*parts, 1, fill).output

    def logits(*parts: Tensor) -> Tensor:
        return window_free_attention(*parts, 1, fill).logits

    assert torch.autograd.gradcheck(output, (query, key, value))
    assert torch.autograd.gradcheck(logits, (query, key, value))


@every_fill
def test_a_window_of_everything_is_plain_attention(fill: str) -> None:
    query, key, _ = (tensor.float() for tensor in tokens(5))
    window = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    plain = (query * 0.5 @ key.mT).softmax(-1)
    assert torch.equal(windowed_probabilities(query, key, window, fill), plain)


@every_fill
def test_prefix_tokens_are_not_windowed(fill: str) -> None:
    query, key, value = tokens(6)
    plain = (query * 0.5 @ key.mT).softmax(-1)
    window = token_window(torch.zeros(2, 5, 5, dtype=torch.bool), 2)  # no window among patches at all
    attention = windowed_probabilities(query, key, window, fill)
    torch.testing.assert_close(attention[:, :, :2], plain[:, :, :2])  # as rows
    # As columns: the odds of the two prefix tokens are what they were.
    torch.testing.assert_close(
        attention[:, :, 2:, 0] / attention[:, :, 2:, 1], plain[:, :, 2:, 0] / plain[:, :, 2:, 1]
    )
    # They have no say in the windows.
    changed = query.clone()
    changed[:, :, :2] += 10
    masks = [window_free_attention(q, key, value, 2, fill).mask for q in (query, changed)]
    assert torch.equal(*masks)


def test_a_pair_outside_the_windows_counts_one_or_nothing() -> None:
    query = key = torch.tensor([2.0, 1.0]).view(1, 1, 2, 1)
    window = torch.eye(2, dtype=torch.bool).view(1, 1, 2, 2)
    e = math.e
    expected = [e**4 / (e**4 + 1), 1 / (e**4 + 1), 1 / (1 + e), e / (1 + e)]
    torch.testing.assert_close(windowed_probabilities(query, key, window).flatten(), torch.tensor(expected))
    assert windowed_probabilities(query, key, window, "-inf").flatten().tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("prefix", [0, 1])
def test_patches_without_a_window(prefix: int) -> None:
    # All keys are 0, so no patch is above the mean.
    query, key, value = tokens(7)
    key[:] = 0.0
    query, key, value = (tensor.requires_grad_() for tensor in (query, key, value))
    left_out = window_free_attention(query, key, value, prefix, "-inf")
    assert not left_out.mask.any()
    expected = value[:, :, :1].expand_as(value) if prefix else torch.zeros_like(value)
    torch.testing.assert_close(left_out.output[:, :, prefix:], expected[:, :, prefix:])  # the prefix token is left
    window = token_window(left_out.mask, prefix)
    by_hand = windowed_probabilities(query, key, window, "-inf") @ value
    torch.testing.assert_close(by_hand, left_out.output)
    for output in (left_out.output, by_hand):
        assert all(
            gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), (query, key, value))
        )
    even = window_free_attention(query, key, value, 0, "zero").output
    torch.testing.assert_close(even, value.mean(-2, keepdim=True).expand_as(value))


@every_fill
def test_dropout_drops_and_keeps_the_mean(fill: str) -> None:
    query, key, _ = tokens(8, batch=400)
    ones = torch.ones_like(query)
    dropped = window_free_attention(query, key, ones, 1, fill, None, 0.5).output
    assert dropped.std() > 0.1
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


@every_fill
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(fill: str, dtype: torch.dtype) -> None:
    parts = [tensor.to(dtype) for tensor in tokens(9)]
    attended = window_free_attention(*parts, 1, fill)
    exact = window_free_attention(*(part.double() for part in parts), 1, fill)
    assert (attended.output.dtype, attended.logits.dtype) == (dtype, torch.float32)
    assert torch.equal(attended.mask, exact.mask)
    torch.testing.assert_close(attended.output.double(), exact.output, rtol=0, atol=0.05)


def test_a_mode_sees_one_function() -> None:
    seen: list[Any] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    parts = tokens()
    expected = window_free_attention(*parts, 1, "-inf", 0.3)
    with Watch():
        result = window_free_attention(*parts, 1, "-inf", 0.3)
    assert seen == [window_free_attention]
    assert isinstance(result, WindowFree)
    assert all(map(torch.equal, result, expected))


def test_the_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 3, 3, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(4)]
    targets = torch.rand(2, 3, 3, generator=generator) > 0.5
    total = 0.0
    for layer in layers:
        for logit, target in zip(layer.flatten().tolist(), targets.flatten().tolist(), strict=True):
            weight = 1 / (1 + math.exp(-logit))
            total -= math.log(weight if target else 1 - weight)
    loss = window_free_loss(layers, targets)
    assert loss.item() == pytest.approx(total / (4 * 2 * 9), rel=1e-12)
    for gradient, layer in zip(torch.autograd.grad(loss, layers), layers, strict=True):
        torch.testing.assert_close(gradient, (layer.sigmoid() - targets.double()) / (4 * 2 * 9))
    assert torch.equal(window_free_loss(layers, targets.float()), loss)


def test_the_loss_stays_finite_where_the_sigmoid_is_full() -> None:
    logits = torch.full((1, 2, 2), 300.0)
    assert window_free_loss([logits], torch.zeros(1, 2, 2)).item() == 300
    assert window_free_loss([logits], torch.ones(1, 2, 2)).item() == 0


def test_invalid_arguments_raise() -> None:
    query, key, value = tokens()
    with pytest.raises(ValueError, match=r"`window_fill` must be one of 'zero', '-inf', got 'minus'"):
        window_free_attention(query, key, value, 1, "minus")
    with pytest.raises(ValueError, match=r"`num_prefix` must lie in \[0, 6\], got 7"):
        window_free_attention(query, key, value, 7)
    with pytest.raises(
        ValueError, match=r"the same shape \(batch, heads, tokens, width\), got \(2, 3, 7, 4\), \(2, 3, 6"
    ):
        window_free_attention(query, key[:, :, 1:], value, 1)
    with pytest.raises(ValueError, match=r"`logits` must contain one tensor per layer, got none"):
        window_free_loss([], torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"`targets` must have the logits' shape \(1, 2, 2\), got \(2, 2, 2\)"):
        window_free_loss([torch.zeros(1, 2, 2)], torch.zeros(2, 2, 2))
