"""Attention-guided CAM (AGCAM): positive gradients weighted by the sigmoid of the attention scores.

Source: Leem and Seo, "Attention Guided CAM: Visual Explanations of Vision Transformer Guided by Self-Attention",
AAAI 2024. Readouts other than the class token are an extension of this library: it adds the rows of all
tokens that the output is read from.
"""

from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.functional.attention import attention_gradient


class AttentionGuidedCAM(GradientExplainer):
    """Σ over layers and heads of max(G, 0) * sigmoid(S) in the readout's rows; S the scores before the softmax.

    Example:
        >>> import timm, torch
        >>> explainer = AttentionGuidedCAM(timm.create_model("test_vit"))
        >>> (explainer.patch_map(torch.zeros(1, 3, 160, 160), target=3) >= 0).all()
        tensor(True)
    """

    quantity = "guided gradient"
    source = "Leem and Seo, Attention Guided CAM, AAAI 2024, arXiv 2402.04563"

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        rows = seen.readout_rows()
        total = inputs.new_zeros(1, dtype=torch.float32)
        for layer in seen.layers():
            gradient = attention_gradient(layer.output_gradient[..., rows, :], layer.call.value)
            scores = layer.call.scores()[..., rows, :]
            total = total + (gradient.clamp(min=0) * scores.sigmoid()).sum((1, 2))
        return total[:, seen.layout.prefix :], seen.layout
