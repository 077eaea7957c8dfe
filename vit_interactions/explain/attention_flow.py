"""Attention flow: the maximum flow from the readout to each patch through the attention of all layers.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. Readouts other than the class token
are an extension of this library.
"""

from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.record import AttentionCall
from vit_interactions.explain.base import Explainer
from vit_interactions.functional.maximum_flow import attention_flow
from vit_interactions.functional.rollout import fuse_heads


class AttentionFlow(Explainer):
    """The flow to each patch as a fraction of the flow to all tokens; capacities 0.5 A + 0.5 I, heads averaged.

    Solves one maximum-flow problem per token on the CPU. With a trained model, an image takes under a second at 14 × 14
    patches and about a minute at 37 × 37. Larger grids and nearly uniform attention, as with random weights, take far
    longer. Flows are bounded by what a token can take in, so maps can be flat.

    Example:
        >>> import timm, torch
        >>> explainer = AttentionFlow(timm.create_model("test_vit", img_size=32))
        >>> explainer.patch_map(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2, 2])
    """

    quantity = "fraction of the flow"
    source = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928"

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        fused: list[Tensor] = []

        def fuse(call: AttentionCall, layout: TokenLayout) -> None:
            fused.append(fuse_heads(call.attention()))

        seen = self._observe(inputs, target, additional_forward_args, fuse)
        residual = 0.5 * torch.eye(seen.layout.tokens, device=inputs.device)
        readouts = seen.readout().expand(inputs.shape[0], -1)
        flows = torch.stack(
            [
                attention_flow([0.5 * layer[image] + residual for layer in fused], readout)
                for image, readout in enumerate(readouts)
            ]
        )
        shares = (flows / flows.sum(-1, keepdim=True)).to(fused[0].dtype)
        return shares[:, seen.layout.prefix :], seen.layout
