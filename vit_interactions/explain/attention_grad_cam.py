"""Grad-CAM on the attention of the last layer: heads weighted by their mean gradient in the readout's row.

Source: Selvaraju et al., "Grad-CAM", ICCV 2017, applied to the class token's attention of the last block, as in
Chefer, Gur and Wolf, CVPR 2021, Sec. 4. Readouts other than the class token are an extension of this
library.
"""

from typing import Any

from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.functional.attention import attention_gradient


class AttentionGradCAM(GradientExplainer):
    """max(mean over heads of w_h * A_h, 0) in the readout's row; w_h the head's mean gradient over the patches.

    Example:
        >>> import timm, torch, warnings
        >>> from vit_interactions import ZeroMapWarning
        >>> warnings.simplefilter("ignore", ZeroMapWarning)  # an untrained model may have no evidence for a class
        >>> explainer = AttentionGradCAM(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.rand(1, 3, 160, 160), target=0).shape
        torch.Size([1, 10, 10])
    """

    quantity = "weighted attention"
    source = "Selvaraju et al., Grad-CAM, ICCV 2017; on attention as in Chefer, Gur and Wolf, CVPR 2021"

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        last = next(seen.layers_from_the_top())
        gradient = attention_gradient(last.output_gradient[..., seen.readout_rows(), :], last.call.value)
        weights = gradient[..., seen.layout.prefix :].mean(-1).sum(-1)
        attention = (seen.readout()[:, None, :, None] * last.attention()).sum(2)
        cam = (weights.unsqueeze(-1) * attention).mean(1).clamp(min=0)
        return cam[:, seen.layout.prefix :], seen.layout
