"""Dynamic Accumulated Attention Map (DAAM): how the evidence for a decision builds up block by block.

Source: Liao, Gao and Zhang, Pattern Recognition 165 (2025), arXiv 2503.14640. The published code rectifies the channel
importance for supervised models and not for self-supervised ones (`rectify`). It recomputes attention from the
projection alone, which is wrong for models with query/key normalization, rotary or relative positions; here attention
is the model's own. Readouts beyond the class token are this library's extension, behind `readout="model"`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.libra_grad import Gradient
from vit_interactions.explain.zero_map import warn_of_zeros
from vit_interactions.functional.accumulated_attention import accumulate, block_evidence
from vit_interactions.utilities.checks import check_choice


class DynamicAccumulatedAttention(GradientExplainer):
    """The accumulated evidence of the blocks; `frames` gives all of them, `patch_map` the last.

    For a self-supervised model, use `rectify=False` and a `MemoryBank` (or another similarity) as the target.

    Example:
        >>> import timm, torch
        >>> explainer = DynamicAccumulatedAttention(timm.create_model("test_vit"))
        >>> explainer.frames(torch.zeros(1, 3, 160, 160), target=3).shape  # six blocks
        torch.Size([1, 6, 10, 10])
    """

    quantity = "accumulated evidence"
    source = "Liao, Gao and Zhang, Dynamic Accumulated Attention Map, Pattern Recognition 2025, arXiv 2503.14640"
    # Supports any model, not only those with a class token.
    run_defaults: ClassVar[Mapping[str, Any]] = {"readout": "model"}

    def __init__(
        self,
        model: nn.Module,
        *,
        rectify: bool = True,
        norm_blocks: bool = False,
        readout: Literal["class_token", "model"] = "class_token",
        gradient: Gradient = "plain",
    ) -> None:
        """Create the explainer.

        Args:
            model: a ViT whose output is read from a class token, or any ViT with `readout="model"`.
            rectify: take the positive part of the channel importance, as the published code does for supervised
                models and not for self-supervised ones.
            norm_blocks: scale each block's map to [0, 1] before adding it.
            readout: "class_token" (the paper), or "model": the rows of all tokens that the output is read from.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.

        Raises:
            ValueError: an unknown `readout` or gradient.
        """
        super().__init__(model, gradient)
        check_choice("readout", readout, ("class_token", "model"))
        self.rectify, self.norm_blocks, self.readout = rectify, norm_blocks, readout

    def frames(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute the accumulated map after every block.

        Args:
            inputs: (batch, channels, height, width).
            target: the class, in captum's forms; "pred"; or a function of the output.
            additional_forward_args: further arguments of the model; a tuple is spread.

        Returns:
            (batch, layers, rows, cols) ≥ 0, non-decreasing along the layers.

        Raises:
            UnsupportedModelError: an output that is not read from a class token, unless `readout="model"`.
        """
        accumulated, layout = self._accumulated(only_tensor(inputs), target, additional_forward_args)
        warn_of_zeros(type(self).__name__, accumulated)
        return accumulated.reshape(*accumulated.shape[:2], *layout.grid)

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        accumulated, layout = self._accumulated(inputs, target, additional_forward_args)
        return accumulated[:, -1], layout

    def _accumulated(
        self, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        rows = self._rows(seen)
        blocks = torch.stack(
            [
                block_evidence(
                    layer.attention()[..., rows, :],
                    layer.output_gradient[..., rows, :],
                    layer.call.value,
                    rectify=self.rectify,
                )
                for layer in seen.layers()
            ],
            1,
        )
        return accumulate(blocks[..., seen.layout.prefix :], norm_blocks=self.norm_blocks), seen.layout

    def _rows(self, seen: Backtrace) -> slice:
        if self.readout == "class_token" and seen.layout.readout != "token":
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not read its output from a class token alone (its readout is "
                f'"{seen.layout.readout}"), for which DAAM is defined. `readout="model"` takes the rows of all tokens '
                "that are read, an extension of this library."
            )
        return seen.readout_rows()
