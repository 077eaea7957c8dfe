"""LibraGrad: a backward pass with pruned and scaled paths, as an option of methods that use gradients.

Source: Mehri, Soleymani Baghshah and Pilehvar, "LibraGrad: Balancing Gradient Flow for Universally Better Vision
Transformer Attributions", CVPR 2025. Attention weights, the divisors of normalization and the gates of activations are
constant (pruned paths); a product of two values passes half of the gradient to each (scaled paths). These are the rules
of CP-LRP without γ.
"""

from typing import Any, Literal, get_args

from torch import nn

from vit_interactions.explain.lrp_rules import LRPRules
from vit_interactions.utilities.checks import check_choice

Gradient = Literal["plain", "libra"]


class LibraRules(LRPRules):
    """The backward pass of LibraGrad.

    It is complete: gradient times image, plus gradient times each bias and embedding, sums to the score.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> with LibraRules(nn.Identity()):
        ...     y = torch.nn.functional.gelu(x).sum()
        >>> torch.equal(torch.autograd.grad(y, x)[0].dot(x), y)
        True
    """

    method = "LibraGrad"

    def __init__(self, model: nn.Module) -> None:
        """Create the mode for a model.

        Raises:
            UnsupportedModelError: quantized layers, or LoRA layers that are not merged.
        """
        super().__init__(model, "cp", 0.0, 0.0)


def check_gradient(gradient: Any) -> Gradient:
    """Return the option `gradient`; raise ValueError unless it is "plain" or "libra"."""
    check_choice("gradient", gradient, get_args(Gradient))
    found: Gradient = gradient
    return found


def gradient_rules(gradient: Gradient, model: nn.Module) -> LibraRules | None:
    """Return the rules to run a model under for a gradient; None for the plain gradient.

    Example:
        >>> gradient_rules("plain", nn.Identity()) is None
        True
    """
    return LibraRules(model) if gradient == "libra" else None
