"""Maps of one chosen patch, or of all patches if none is chosen."""

from typing import Any

from captum.log import log_usage
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.own_input import own_input
from vit_interactions.explain.base import Explainer, only_tensor


class ChosenPatchExplainer(Explainer):
    """Base class for explainers with the option `patch`; subclasses implement `_values`."""

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        patch: tuple[int, int] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Explain each image by a map of the input's shape; `patch` as in `patch_map`."""
        return self._attribute(inputs, lambda x: self._values(x, target, additional_forward_args, patch))

    def patch_map(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        patch: tuple[int, int] | None = None,
    ) -> Tensor:
        """Compute the map of one patch, or the map of all patches, with one raw value per patch.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: checked only; the map does not depend on a class.
            additional_forward_args: further arguments of the model; a tuple is spread.
            patch: (row, col) of the chosen patch; None for the map of all patches.

        Returns:
            (batch, rows, cols), at least float32, on the input's device.

        Raises:
            ValueError: `patch` outside the grid.
        """
        with own_input(only_tensor(inputs)) as image:
            return self._as_maps(*self._values(image, target, additional_forward_args, patch))

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        return self._values(inputs, target, additional_forward_args, None)

    def _values(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, patch: tuple[int, int] | None
    ) -> tuple[Tensor, TokenLayout]:
        """Compute the values (batch, patches) of a patch, or of all patches, and the token layout."""
        raise NotImplementedError
