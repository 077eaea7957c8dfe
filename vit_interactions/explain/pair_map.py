"""Pair maps: how much each patch matters to each other patch."""

from typing import Any

from torch import Tensor

from vit_interactions.attention.own_input import own_input
from vit_interactions.explain.base import only_tensor


class PairMapped:
    """Mixin of explainers that compute a matrix of all pairs of patches; other explainers have no `pair_map`."""

    def pair_map(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute how much each patch matters to each other patch.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: as in `attribute`.
            additional_forward_args: as in `attribute`.

        Returns:
            (batch, patches, patches) ≥ 0, at least float32, on the input's device. Row p is how much each patch
            matters to patch p; patches are in row-major order.

        Example:
            >>> import timm, torch
            >>> from vit_interactions import RawAttention
            >>> RawAttention(timm.create_model("test_vit")).pair_map(torch.zeros(1, 3, 160, 160)).shape
            torch.Size([1, 100, 100])
        """
        with own_input(only_tensor(inputs)) as image:
            return self._pairs(image, target, additional_forward_args)

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        """Compute the pair map (batch, patches, patches)."""
        raise NotImplementedError
