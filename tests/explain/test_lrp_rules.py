"""The rules of AttnLRP for matrix products, softmax, normalization and maxima, each against a slow loop in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.vision_models import MODELS, vision_model, zero_added
from vit_interactions.explain.attn_lrp import AttnLRP
from vit_interactions.explain.lrp_rules import LRPRules

PLAIN: dict[str, Any] = {"conv_gamma": 0, "linear_gamma": 0}


class Explicit(nn.Module):
    """Attention of one head, written out by a softmax or by `scaled_dot_product_attention`, over rows of pixels."""

    def __init__(self, attend: Callable[..., torch.Tensor]) -> None:
        """Take the attention, a function of query, key, value and mask."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(24, 24, generator=generator) / 24**0.5 for _ in range(4))
        self.head = nn.Linear(24, 5, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(5, 24, generator=generator))
        self.attend = attend

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scores of images (batch, 3, 8, 8)."""
        tokens = image.permute(0, 2, 1, 3).flatten(2)
        query, key, value, bias = (tokens @ weight for weight in self.weights)
        scores: torch.Tensor = self.head(self.attend(query, key, value, bias[..., :8]).mean(1))
        return scores


def relevances(
    function: Callable[..., Tensor], *inputs: Tensor, variant: Any = "attn"
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Compute the result, a relevance of it (result times random weights), and the relevance of each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with LRPRules(nn.Identity(), variant, 0.0, 0.0):
        result = function(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(9), dtype=result.dtype)
    gradients = torch.autograd.grad((result * weights).sum(), leaves)
    return (
        result.detach(),
        (result * weights).detach(),
        [x * g for x, g in zip(inputs, gradients, strict=True)],
    )


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "product",
    [torch.matmul, torch.bmm, lambda a, b: a @ b, lambda a, b: torch.einsum("bij,bjk->bik", a, b)],
    ids=["matmul", "bmm", "@", "einsum"],
)
def test_a_product_of_matrices_shares_relevance_equally(product: Callable[..., Tensor]) -> None:
    # Proposition 3.3: R_ji = Σ_p A_ji V_ip R_jp / (2 O_jp), and similarly for V.
    a, b = numbers(2, 3, 4), numbers(2, 4, 5, seed=1)
    result, above, (of_a, of_b) = relevances(product, a, b)
    slow_a, slow_b = torch.zeros_like(a), torch.zeros_like(b)
    for n in range(2):
        for j in range(3):
            for p in range(5):
                for i in range(4):
                    share = a[n, j, i] * b[n, i, p] * above[n, j, p] / (2 * result[n, j, p])
                    slow_a[n, j, i] += share
                    slow_b[n, i, p] += share
    torch.testing.assert_close(of_a, slow_a)
    torch.testing.assert_close(of_b, slow_b)
    torch.testing.assert_close(of_a.sum() + of_b.sum(), above.sum())


def test_the_softmax_is_expanded_at_its_argument_or_constant() -> None:
    # Proposition 3.1: R_i = x_i (R_i - s_i Σ_j R_j).
    x = numbers(3, 4)
    result, above, (of_x,) = relevances(lambda x: x.softmax(-1), x)
    for row in range(3):
        for i in range(4):
            expected = x[row, i] * (above[row, i] - result[row, i] * sum(above[row].tolist()))
            torch.testing.assert_close(of_x[row, i], expected)
    _, above, (of_x,) = relevances(lambda x: x * x.softmax(-1), x, variant="cp")
    torch.testing.assert_close(of_x, above)


def test_products_of_several_factors_share_relevance_equally() -> None:
    # Proposition 3.2: a product of N factors passes R / N to each.
    factors = [numbers(3, 4, seed=seed) for seed in range(3)]
    _, above, found = relevances(lambda a, b, c: torch.einsum("ij,ij,ij->ij", a, b, c), *factors)
    for relevance in found:
        torch.testing.assert_close(relevance, above / 3)
    for function in (lambda a, b: a * b, lambda a, b: torch.clone(a).mul_(b), torch.multiply):
        _, above, found = relevances(function, *factors[:2])
        for relevance in found:
            torch.testing.assert_close(relevance, above / 2)


def test_what_divides_is_constant() -> None:
    # Proposition 3.4: normalization passes all relevance to its argument.
    x = numbers(2, 3, 4)
    for function in (
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.normalize(x, p=1.0, dim=1),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt(),
        lambda x: x * (x.pow(2).sum(-1, keepdim=True) + 1).pow(-0.5),
        lambda x: x.clone().div_(x.square().sum().sqrt()),
    ):
        plain = function(x)
        result, above, (of_x,) = relevances(function, x)
        torch.testing.assert_close(result, plain)
        torch.testing.assert_close(of_x, above)
    norm = math.sqrt(sum(value * value for value in x[0, 0].tolist()))
    _, _, (of_x,) = relevances(lambda x: F.normalize(x, dim=-1)[0, 0, :1], x)
    weight = torch.randn(1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    torch.testing.assert_close(of_x[0, 0, 0], (x[0, 0, 0] / norm * weight)[0])


def test_powers_pass_all_relevance() -> None:
    x = numbers(3, 4).abs() + 0.1
    for function in (torch.square, torch.sqrt, lambda x: x**2, lambda x: x.pow(3)):
        _, above, (of_x,) = relevances(function, x)
        torch.testing.assert_close(of_x, above)


def test_the_winner_of_a_maximum_takes_all() -> None:
    x = numbers(3, 4)
    for function in (lambda x: x.amax(1), lambda x: x.max(1).values, lambda x: torch.max(x, 1)[0]):
        _, above, (of_x,) = relevances(function, x)
        for row in range(3):
            winner = max(range(4), key=lambda i: x[row, i].item())
            for i in range(4):
                expected = above[row] if i == winner else torch.zeros_like(above[row])
                torch.testing.assert_close(of_x[row, i], expected)
    _, above, (of_x,) = relevances(lambda x: x.norm(dim=1), x)
    torch.testing.assert_close(of_x.sum(), above.sum())


def explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention by a softmax."""
    return (query @ key.mT / query.shape[-1] ** 0.5 + mask).softmax(-1) @ value


def by_einsum(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention by a softmax between two einsums."""
    scores = torch.einsum("bqd,bkd->bqk", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bqk,bkd->bqd", F.softmax(scores + mask, dim=-1), value)


@pytest.mark.parametrize("variant", ["cp", "attn"])
@pytest.mark.parametrize("attend", [explicit, by_einsum])
def test_attention_written_out_gives_the_relevance_of_the_fused_one(attend: Any, variant: Any) -> None:
    image = numbers(2, 3, 8, 8)

    def pixels(attend: Any, **options: Any) -> Tensor:
        result = AttnLRP(Explicit(attend).double(), variant, **options).attribute(image, target=1)
        assert isinstance(result, Tensor)
        return result

    for options in (PLAIN, {}):
        expected = pixels(F.scaled_dot_product_attention, **options)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(pixels(attend, **options), expected, rtol=1e-5, atol=1e-10)
    cp = AttnLRP(Explicit(attend).double(), "cp", **PLAIN).attribute(image, target=1)
    assert (cp - pixels(attend, **PLAIN)).abs().max() > 1e-3 or variant == "cp"


@pytest.mark.parametrize("kind", MODELS)
def test_without_biases_the_pixels_of_every_family_sum_to_the_score(kind: str) -> None:
    model = zero_added(vision_model(kind).double())
    image = numbers(1, 3, 64, 64)
    score = model(image)[0, 2].detach()
    for options in (PLAIN, {}):
        result = AttnLRP(model, **options).attribute(image, target=2)
        torch.testing.assert_close(result.sum(), score, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", ["Swin", "MaxViT", "LeViT"])
def test_the_forward_pass_is_unchanged(kind: str) -> None:
    model, image = vision_model(kind), numbers(1, 3, 64, 64).float()
    for variant in ("cp", "attn"):
        with LRPRules(model, variant, 0.25, 0.05):
            output = model(image.clone().requires_grad_())
        torch.testing.assert_close(output, model(image), rtol=1e-4, atol=1e-6)
