"""Tests of reading the arguments of an attention call, and of calling it again."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.explain.lrp_rules import LRPRules
from vit_interactions.explain.relevance_mode import RelevanceMode
from vit_interactions.explain.transformer_attribution import RelevanceRules

MASK = torch.linspace(-2, 2, 36).double().view(6, 6)
WAYS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "plain": ((), {}),
    "mask by place": ((MASK,), {}),
    "all by place": ((None, 0.0, True), {}),
    "all by name": ((), {"attn_mask": MASK, "dropout_p": 0.0, "is_causal": False, "scale": 0.7}),
    "shared heads": ((), {"enable_gqa": True, "scale": 1.3}),
}


def tensors(shared: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Query of four heads; key and value of as many, or fewer."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 6, 8), (2, shared, 6, 8), (2, shared, 6, 8))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize(("args", "kwargs"), WAYS.values(), ids=WAYS)
def test_running_what_was_read_is_the_call_itself(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = tensors(2 if kwargs.get("enable_gqa") else 4)
    call = read_sdpa(*given, *args, **kwargs)
    expected = F.scaled_dot_product_attention(*given, *args, **kwargs)
    torch.testing.assert_close(call.run(F.scaled_dot_product_attention), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(call.attention() @ call.value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(call.scores().softmax(-1), call.attention(), rtol=0, atol=1e-12)


def test_dropout_is_read_too() -> None:
    assert read_sdpa(*tensors(), None, 0.25).dropout == 0.25
    assert read_sdpa(*tensors(), dropout_p=0.5).dropout == 0.5


RULES = {
    "transformer attribution": lambda: RelevanceRules(nn.Identity()),
    "attn": lambda: LRPRules(nn.Identity(), "attn", 0.0, 0.0),
    "cp": lambda: LRPRules(nn.Identity(), "cp", 0.0, 0.0),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_know_shared_heads(rules: Any) -> None:
    def relevance(mode: RelevanceMode, repeated: bool) -> list[Tensor]:
        given = [tensor.requires_grad_() for tensor in tensors(2)]
        query, key, value = given
        options: dict[str, Any] = {} if repeated else {"enable_gqa": True}
        if repeated:
            key, value = (torch.stack([t[:, head] for head in (0, 0, 1, 1)], 1) for t in (key, value))
        with mode:
            output = F.scaled_dot_product_attention(query, key, value, MASK, scale=0.7, **options)
        return list(torch.autograd.grad(output.sin().sum(), given, allow_unused=True, materialize_grads=True))

    results = zip(relevance(rules(), repeated=False), relevance(rules(), repeated=True), strict=True)
    for result, expected in results:
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    assert expected.abs().max() > 0  # of the values, in every method
