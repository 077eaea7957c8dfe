"""Test that operations without a relevance rule, or hidden from dispatch modes, raise errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.small_vits import Spoiled, images, small_vit
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explain.relevance_mode import with_derivative_of_output
from vit_interactions.explain.transformer_attribution import TransformerAttribution


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (torch.exp, "computes `exp`"),
        (torch.sigmoid, "computes `sigmoid`"),
        (lambda x: x - 2 * x, "computes `sub`"),
        (lambda x: x * F.gelu(x), "multiplies two tensors"),
        (lambda x: x * torch.rand(x.shape[1:]), r"multiplies each token by different factors, of shape \(5, 12\)"),
        (lambda x: x / x.mean(2, keepdim=True), "divides by a tensor"),
        (lambda x: x / torch.rand(12), "divides by a tensor"),
        (lambda x: torch.add(x, x, alpha=2), "adds 2 times"),
        (lambda x: F.linear(x, x[0, :1].expand(12, 12)), "computes weights"),
        (lambda x: x + x.mean(-3), "averages or sums over the batch"),
        (lambda x: F.conv1d(x.mT, torch.ones(12, 12, 1)).mT, "computes `conv1d`"),
        (
            lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, x[:, None, :, :5])[:, 0],
            "mask of its attention",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(spoil: Callable[[Tensor], Tensor], what: str) -> None:
    model = small_vit()
    model.blocks[0].drop_path2 = Spoiled(spoil)
    with pytest.raises(UnsupportedModelError, match=rf"`blocks.0.drop_path2` \(Spoiled\) .*{what}"):
        TransformerAttribution(model).patch_map(images(), target=0)
    model.blocks[0].drop_path2 = nn.Identity()
    assert TransformerAttribution(model).patch_map(images(), target=0).isfinite().all()


def test_a_rule_of_the_output_survives_a_model_that_overwrites_it() -> None:
    calls = []

    def double(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    for overwrites in (False, True):
        calls.clear()
        x = torch.tensor([3.0], requires_grad=True)
        y = with_derivative_of_output(double, lambda gradient, output, x: (gradient * output,), x)
        y = y.add_(1) if overwrites else y + 1
        assert y.item() == 7
        assert torch.autograd.grad(y, x)[0].item() == 6  # the output, not 7
        assert len(calls) == 1 + overwrites


class Doubled(torch.autograd.Function):
    """An operation that no mode can see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute 2 x."""
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Pass the gradient on."""
        return 2 * gradient


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
def test_operations_that_cannot_be_seen_are_refused() -> None:
    model = small_vit()
    model.norm = Spoiled(Doubled.apply)
    with pytest.raises(UnsupportedModelError, match="computes `Doubled`"):
        TransformerAttribution(model).patch_map(images(), target=0)
    model.norm = Spoiled(torch.detach)
    with pytest.raises(UnsupportedModelError, match="does not depend on the image"):
        TransformerAttribution(model)._relevance(images(), 0, None)
