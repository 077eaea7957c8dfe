"""Attention and its gradient against torch's attention, which returns only its product with the values."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.functional import attention as attention_module
from vit_interactions.functional import attention_gradient, attention_probabilities, rollout
from vit_interactions.functional.attention import attention_rows


def queries_and_keys(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return random queries and keys with sharp attention."""
    query, key = 2 * torch.randn(2, *shape, dtype=torch.float64)
    return query.to(dtype), key.to(dtype)


def by_identity_values(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    """Compute A = SDPA(q, k, I): with identity values, the output is the attention."""
    identity = torch.eye(key.shape[-2], dtype=query.dtype).expand(*key.shape[:-1], -1)
    return F.scaled_dot_product_attention(query, key, identity, **options)


MASKS = {
    "none": {},
    "bool": {"mask": torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 1, 0, 0]]).bool()},
    "added": {"mask": torch.linspace(-3, 3, 20, dtype=torch.float64).view(4, 5)},
    "added-per-head": {"mask": torch.linspace(-3, 3, 60, dtype=torch.float64).view(1, 3, 4, 5)},
    "added-with-infinities": {
        "mask": torch.zeros(4, 5).double().masked_fill(torch.ones(4, 5).triu(3).bool(), -math.inf)
    },
    "scale": {"scale": 0.3},
    "scale-and-mask": {"scale": 1.7, "mask": torch.ones(4, 5).tril(2).bool()},
    "causal": {"is_causal": True},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_equals_torchs_attention_of_unit_values(options: dict[str, Any]) -> None:
    query, key = queries_and_keys(2, 3, 5, 4)
    query = query[..., :4, :]
    result = attention_probabilities(query, key, **options)
    torchs = {"attn_mask" if name == "mask" else name: value for name, value in options.items()}
    torch.testing.assert_close(result, by_identity_values(query, key, **torchs), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.sum(-1), torch.ones(2, 3, 4).double())
    assert result.max() > 0.9


def test_equals_the_equation_written_as_a_loop() -> None:
    query, key = queries_and_keys(3, 4)
    result = attention_probabilities(query, key)
    for i in range(3):
        weights = [
            math.exp(sum(a * b for a, b in zip(query[i].tolist(), k, strict=True)) / 2) for k in key.tolist()
        ]
        for j, weight in enumerate(weights):
            assert math.isclose(result[i, j].item(), weight / sum(weights), rel_tol=1e-9)


@pytest.mark.parametrize("additive", [False, True])
def test_a_fully_masked_row_is_zero(additive: bool) -> None:
    query, key = queries_and_keys(1, 1, 3, 4)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    passed = torch.zeros(3, 3).double().masked_fill(~mask, -math.inf) if additive else mask
    result = attention_probabilities(query, key, passed)
    assert torch.equal(result[0, 0, 1], torch.zeros(3).double())
    torch.testing.assert_close(result.sum(-1), torch.tensor([[[1.0, 0.0, 1.0]]]).double())
    torch.testing.assert_close(result, by_identity_values(query, key, attn_mask=passed).nan_to_num(0.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    query, key = queries_and_keys(1, 2, 40, 8, dtype=dtype)
    result = attention_probabilities(query, key)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, by_identity_values(query.float(), key.float()), rtol=1e-5, atol=1e-7)
    # In half precision, the error of the sum would be much larger.
    torch.testing.assert_close(result.sum(-1), torch.ones(1, 2, 40), rtol=0, atol=1e-6)
    assert (attention_probabilities(query, key, scale=1.0).to(dtype).float().sum(-1) - 1).abs().max() > 1e-5


def test_large_half_precision_scores_do_not_overflow() -> None:
    query = torch.full((1, 1, 2, 64), 60.0, dtype=torch.float16)
    key = torch.stack((query[0, 0, 0], query[0, 0, 0] / 2)).view(1, 1, 2, 64)
    assert attention_probabilities(query, key, scale=1.0)[0, 0].tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_equals_autograd_through_explicit_attention(masked: bool) -> None:
    query, key = queries_and_keys(2, 3, 6, 4)
    value = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    mask = torch.ones(6, 6).tril().bool() if masked else None
    attention = attention_probabilities(query, key, mask).requires_grad_()
    output = attention @ value

    def score(z: Tensor) -> Tensor:
        return (z.sin() * torch.linspace(-1, 2, z.numel()).double().view_as(z)).sum()

    (expected,) = torch.autograd.grad(score(output), attention)
    fused = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).requires_grad_()
    (output_gradient,) = torch.autograd.grad(score(fused), fused)
    torch.testing.assert_close(attention_gradient(output_gradient, value), expected, rtol=1e-9, atol=1e-10)
    # I5: Σ_j A_ij G_ij = <g_i, z_i>.
    torch.testing.assert_close((attention * expected).sum(-1), (output_gradient * output).sum(-1))


def test_autocast_does_not_change_the_result() -> None:
    query, key = queries_and_keys(1, 2, 20, 8, dtype=torch.float32)
    value = torch.randn(1, 2, 20, 8)
    attention, gradient = attention_probabilities(query, key), attention_gradient(query, value)
    rolled = rollout([attention[:, 0], attention[:, 1]], torch.eye(20)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ key.mT).dtype == torch.bfloat16
        assert torch.equal(attention_probabilities(query, key), attention)
        assert torch.equal(attention_gradient(query, value), gradient)
        assert torch.equal(rollout([attention[:, 0], attention[:, 1]], torch.eye(20)[0]), rolled)
        assert torch.is_autocast_enabled("cpu")


def test_the_gradient_of_half_precision_is_float32() -> None:
    gradient = attention_gradient(torch.ones(1, 2, 4).half(), torch.full((1, 3, 4), 2.0).half())
    assert gradient.dtype == torch.float32
    assert gradient.tolist() == [[[8.0] * 3] * 2]


@pytest.mark.parametrize("elements", [1, 6, 30, 100, 10**6])
@pytest.mark.parametrize("prefix", [0, 1, 4])
@pytest.mark.parametrize("masking", ["none", "bool", "added", "causal"])
def test_blocks_cover_the_patches_once(
    monkeypatch: pytest.MonkeyPatch, elements: int, prefix: int, masking: str
) -> None:
    monkeypatch.setattr(attention_module, "CPU_BLOCK_ELEMENTS", elements)
    query, key = queries_and_keys(3, 2, 6, 4)
    options: dict[str, Any] = {
        "none": {},
        "bool": {"mask": torch.rand(3, 1, 6, 6) < 0.7},
        "added": {"mask": torch.randn(2, 6, 6)},
        "causal": {"is_causal": True},
    }[masking]
    whole = attention_probabilities(query, key, **options, scale=0.8)[..., prefix:, :]
    assembled = torch.full_like(whole, math.nan)
    times = torch.zeros_like(whole)
    largest = 0
    for index, block in attention_rows(query, key, **options, scale=0.8, prefix=prefix):
        assembled[index] = block
        times[index] += 1
        largest = max(largest, block.numel())
    assert times.eq(1).all()
    torch.testing.assert_close(assembled, whole, rtol=1e-10, atol=1e-12)
    assert largest <= max(elements, 6)
