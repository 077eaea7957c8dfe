"""The attention of one layer, in the row of the tokens that the output is read from.

Source: the usual first look at a ViT, e.g. Caron et al., "Emerging Properties in Self-Supervised Vision
Transformers", ICCV 2021 (last layer, class token). Readouts other than the class token are an extension of this
library.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Observation
from vit_interactions.attention.record import AttentionCall
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.attention import without_autocast
from vit_interactions.functional.rollout import Fusion, check_fusion, fuse_heads
from vit_interactions.utilities.checks import check_index


class RawAttention(PairMapped, Explainer):
    """The attention that the readout tokens pay to each patch in one layer.

    The pair map is the attention among patches in that layer, with the heads fused.

    Example:
        >>> import timm, torch
        >>> explainer = RawAttention(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160)).sum() < 1  # the class token keeps a share
        tensor(True)
    """

    quantity = "attention of the readout"
    source = "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021"

    def __init__(self, model: nn.Module, layer: int = -1, fusion: Fusion = "mean") -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            layer: index of the layer; negative counts from the last.
            fusion: "mean", "max" or "min" over heads.

        Raises:
            ValueError: an unknown `fusion`.
        """
        super().__init__(model)
        check_fusion(fusion)
        self.layer, self.fusion = check_index("layer", layer), fusion

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        fused, seen = self._attention(inputs, target, additional_forward_args)
        with torch.no_grad(), without_autocast(inputs):
            readout = seen.readout().to(fused.dtype).expand(fused.shape[0], -1).unsqueeze(1)
            return (readout @ fused).squeeze(1)[:, seen.layout.prefix :], seen.layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        fused, seen = self._attention(inputs, target, additional_forward_args)
        return fused[:, seen.layout.prefix :, seen.layout.prefix :]

    def _attention(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, Observation]:
        """Compute the layer's attention (batch, tokens, tokens), heads fused."""
        kept: list[AttentionCall | None] = []

        def keep(call: AttentionCall, layout: TokenLayout) -> None:
            # The number of layers is not known yet, so an index from the end keeps the most recent calls.
            wanted = self.layer < 0 or len(kept) == self.layer
            kept.append(call if wanted else None)
            if self.layer < 0 and len(kept) > -self.layer:
                kept[self.layer - 1] = None

        seen = self._observe(inputs, target, additional_forward_args, keep)
        if not -len(kept) <= self.layer < len(kept):
            raise IndexError(
                f"`layer` must lie in [{-len(kept)}, {len(kept) - 1}] for this model, got {self.layer}."
            )
        call = kept[self.layer]
        assert call is not None
        with torch.no_grad(), without_autocast(inputs):
            return fuse_heads(call.attention(), self.fusion), seen
