"""LeGrad: sensitivity of a layer's own score to its attention.

Source: Bousselham, Boggust, Chaybouti, Strobelt and Kuehne, "LeGrad: An Explainability Method for Vision Transformers
via Feature Formation Sensitivity", ICCV 2025, arXiv 2404.03214.
"""

from torch import Tensor


def layer_sensitivity(gradient: Tensor) -> Tensor:
    """Compute E_j = mean_h mean_i max(G_hij, 0): how much attention to token j raises the score.

    Args:
        gradient: G (batch, heads, queries, keys), gradient of the layer's own score at its attention.

    Returns:
        (batch, keys) ≥ 0.

    Example:
        >>> import torch
        >>> layer_sensitivity(torch.tensor([[[[1.0, -1.0], [0.0, 4.0]], [[3.0, 0.0], [0.0, 0.0]]]]))
        tensor([[1., 1.]])
    """
    return gradient.clamp(min=0).mean((1, 2))
