"""Patches that matter equally to all other patches, mostly empty background.

Source: Ma et al., arXiv 2203.05922, Sec. 4.2.
"""

from typing import Any

from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer
from vit_interactions.functional.indiscriminative import column_variance, indiscriminative_patches
from vit_interactions.utilities.checks import check_fraction


class IndiscriminativePatches(InteractionExplainer):
    """The variance of each patch's column of U: how differently the patch matters to the others.

    Example:
        >>> import timm, torch
        >>> explainer = IndiscriminativePatches(timm.create_model("test_vit"))
        >>> explainer.dropped(torch.zeros(1, 3, 160, 160), beta=0.2).sum()
        tensor(20)
    """

    quantity = "variance of the column of U"

    def dropped(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        beta: float = 0.20,
    ) -> Tensor:
        """Mark the round(β N) patches with the lowest variance. Excluded attention sinks are not ranked.

        Returns:
            (batch, rows, cols) bool.

        Raises:
            ValueError: `beta` outside [0, 1].
        """
        check_fraction("beta", beta)
        uncertainty, layout, exclude = self.compute(inputs, target, additional_forward_args)
        return indiscriminative_patches(uncertainty, beta, exclude).reshape(-1, *layout.grid)

    def map_from(self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None) -> Tensor:
        """Compute the variance of each patch's column of U."""
        return column_variance(uncertainty)
