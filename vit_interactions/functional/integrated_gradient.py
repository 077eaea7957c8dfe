"""The positive part of an attention gradient, averaged along a straight path to the image.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, as used at the last layer's
attention by Yuan et al., "Explaining Information Flow Inside Vision Transformers Using Markov Chain", XAI4Debugging
2021, and by Chen et al., "Beyond Intuition", TMLR 2023.
"""

from torch import Tensor


def path_fractions(steps: int) -> list[float]:
    """Return the points k / (steps − 1) of the path from the zero image to the image, including both ends.

    Args:
        steps: number of points, ≥ 1; with 1, the only point is the image itself.

    Raises:
        ValueError: `steps` < 1.

    Example:
        >>> path_fractions(3), path_fractions(1)
        ([0.0, 0.5, 1.0], [1.0])
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps`, the points of the path, must be an integer >= 1, got {steps!r}.")
    return [1.0] if steps == 1 else [step / (steps - 1) for step in range(steps)]


def positive_gradient(gradient: Tensor) -> Tensor:
    """Compute mean_h max(G_h, 0), the positive part of the gradient, averaged over heads.

    Args:
        gradient: (batch, heads, queries, keys), averaged along the path.

    Returns:
        (batch, queries, keys) ≥ 0.

    Example:
        >>> import torch
        >>> positive_gradient(torch.tensor([[[[1.0, -3.0]], [[2.0, 1.0]]]]))
        tensor([[[1.5000, 0.5000]]])
    """
    return gradient.clamp(min=0).mean(1)
