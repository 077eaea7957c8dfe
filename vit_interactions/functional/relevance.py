"""Relevance propagation rules of transformer attribution: α = 1, β = 0 in linear layers, proportional elsewhere.

A rule maps the relevance of an operation's output to the relevance of its inputs. x / 0 is 0 throughout.

Source: Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, Section 3.1,
with sums rescaled per image.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.functional.attention import at_least_float32


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Compute a / b, and 0 where b is 0.

    Example:
        >>> divide(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]))
        tensor([0.5000, 0.0000])
    """
    return torch.where(b == 0, 0.0, a / b)


def linear_relevance(relevance: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Distribute the relevance of a linear layer's output to its positive contributions; the bias gets none.

    R_i = Σ_j max(x_i w_ij, 0) / Σ_k max(x_k w_kj, 0) · R_j.

    Args:
        relevance: (..., outputs).
        x: (..., inputs).
        weight: (outputs, inputs).

    Returns:
        (..., inputs); sums to the relevance of the outputs that have a positive contribution.

    Example:
        >>> linear_relevance(torch.tensor([1.0]), torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0]]))
        tensor([1., 0.])
    """
    relevance, x, weight = map(at_least_float32, (relevance, x, weight))
    rising, falling = weight.clamp(min=0), weight.clamp(max=0)
    positive, negative = x.clamp(min=0), x.clamp(max=0)
    shares = divide(relevance, F.linear(positive, rising) + F.linear(negative, falling))
    return positive * (shares @ rising) + negative * (shares @ falling)


def sum_relevance(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Split the relevance of a + b in proportion to a and b, then rescale both so that relevance is conserved.

    With r_a = a R / (a + b) and S_a = Σ r_a over each image, r_a is scaled to sum to |S_a| / (|S_a| + |S_b|) · Σ R.

    Args:
        relevance: (batch, ...).
        a: (batch, ...).
        b: (batch, ...).

    Returns:
        The relevance of a and of b.

    Example:
        >>> a, b = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]])
        >>> sum_relevance(torch.tensor([[1.0, 1.0]]), a, b)
        (tensor([[0.7500, 0.5000]]), tensor([[0.2500, 0.5000]]))
    """
    relevance, a, b = map(at_least_float32, (relevance, a, b))
    over = tuple(range(1, a.ndim))
    share = divide(relevance, a + b)
    parts = a * share, b * share
    sums = [part.sum(over, keepdim=True) for part in parts]
    factor = divide(relevance.sum(over, keepdim=True), sums[0].abs() + sums[1].abs())
    first, second = (part * sum.sign() * factor for part, sum in zip(parts, sums, strict=True))
    return first, second


def mean_relevance(relevance: Tensor, x: Tensor, total: Tensor) -> Tensor:
    """Distribute the relevance of a mean or a sum to its terms: R_i = x_i R / Σ x.

    Args:
        relevance: relevance of the result, broadcastable to x.
        x: the terms.
        total: their sum, broadcastable to x.

    Example:
        >>> mean_relevance(torch.tensor([2.0]), torch.tensor([1.0, 3.0]), torch.tensor([4.0]))
        tensor([0.5000, 1.5000])
    """
    relevance, x, total = map(at_least_float32, (relevance, x, total))
    return x * divide(relevance, total)


def product_relevance(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Split the relevance of the matrix product a b in half: R_a = a * (t bᵀ) / 2, R_b = b * (aᵀ t) / 2.

    t = R / (a b).

    Args:
        relevance: (..., rows, columns).
        a: (..., rows, inner).
        b: (..., inner, columns).

    Returns:
        The relevance of a and of b.

    Example:
        >>> product_relevance(torch.tensor([[1.0]]), torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0], [1.0]]))
        (tensor([[0.1250, 0.3750]]), tensor([[0.1250],
                [0.3750]]))
    """
    return bilinear_relevance(relevance, a, b, torch.matmul)


def bilinear_relevance(
    relevance: Tensor, a: Tensor, b: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Split the relevance of any bilinear product in half: derivatives of Σ t · multiply(a, b), times a / 2 and b / 2.

    Args:
        relevance: of the product.
        a: the first factor.
        b: the second factor.
        multiply: linear in either factor.

    Example:
        >>> bilinear_relevance(torch.tensor(6.0), torch.tensor(3.0), torch.tensor(2.0), torch.mul)
        (tensor(3.), tensor(3.))
    """
    relevance, a, b = map(at_least_float32, (relevance, a, b))
    product, pull_back, *_ = torch.func.vjp(multiply, a, b)
    of_a, of_b = pull_back(divide(relevance, product))
    return a * of_a / 2, b * of_b / 2


def attention_relevance(
    relevance: Tensor, query: Tensor, key: Tensor, value: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Propagate the relevance of z = A value to query, key and value; softmax, scale and mask pass it unchanged.

    Args:
        relevance: (..., queries, width), relevance of z.
        query: (..., queries, width).
        key: (..., keys, width).
        value: (..., keys, width).
        attention: (..., queries, keys).

    Returns:
        The relevance of query, key and value.

    Example:
        >>> one = torch.ones(1, 1)
        >>> attention_relevance(one, one, one, one, attention=one)
        (tensor([[0.2500]]), tensor([[0.2500]]), tensor([[0.5000]]))
    """
    of_attention, of_value = product_relevance(relevance, attention, value)
    of_query, of_key = product_relevance(of_attention, query, key.mT)
    return of_query, of_key.mT, of_value
