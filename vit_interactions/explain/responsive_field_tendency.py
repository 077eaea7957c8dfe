"""The direction in which each patch's responsive field extends farthest.

Source: Ma et al., arXiv 2203.05922, Sec. 4.3, Eq. 7: the directions are object-centric. In our measurements, they point
at the center of the image at least as much as at the object (docs/field_claims.md). The map of their convergence is an
extension of this library.
"""

from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.responsive_field_size import FieldExplainer


class ResponsiveFieldTendency(FieldExplainer):
    """The directions of the patches' responsive fields, as a map of their convergence.

    Example:
        >>> import timm, torch
        >>> explainer = ResponsiveFieldTendency(timm.create_model("test_vit"))
        >>> explainer.tendency(torch.zeros(1, 3, 160, 160)).shape
        torch.Size([1, 10, 10, 2])
    """

    quantity = "convergence of the tendency"

    def tendency(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute one unit vector per patch.

        Returns:
            (batch, rows, cols, 2): x to the right, y down; (0, 0) for a field without a direction.
        """
        found = self.field(inputs, target, additional_forward_args)
        return found.tendency.reshape(-1, *found.grid, 2)

    def map_from(self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None) -> Tensor:
        """Compute the convergence of the directions."""
        tendency = self.field_from(uncertainty, layout, exclude).tendency
        return convergence(tendency.reshape(-1, *layout.grid, 2)).flatten(1)


def convergence(tendency: Tensor) -> Tensor:
    """Compute −(∂x R_x + ∂y R_y), per patch, by central differences inside and one-sided ones at the edges.

    Args:
        tendency: (batch, rows, cols, 2), x to the right, y down.

    Returns:
        (batch, rows, cols), positive where the directions converge.

    Example:
        >>> convergence(torch.tensor([[[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]]]))
        tensor([[[1., 1., 1.]]])
    """
    x, y = tendency.unbind(-1)
    return -(_slope(x, -1) + _slope(y, -2))


def _slope(values: Tensor, axis: int) -> Tensor:
    # A single row or column has no slope across it.
    if values.shape[axis] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=axis)[0]
