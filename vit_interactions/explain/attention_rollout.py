"""Attention rollout with rows normalized by their own sums, the first layer applied first.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. Head fusion by maximum or
minimum and the discarding of small entries are additions of later code, off by default. Readouts other than
the class token are an extension of this library.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Observation
from vit_interactions.attention.record import AttentionCall
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.attention_sinks import RunningSinks
from vit_interactions.functional.chain import chain, patch_readouts
from vit_interactions.functional.rollout import (
    Fusion,
    check_alpha,
    check_fusion,
    discard_smallest,
    fuse_heads,
    rollout,
    without_columns,
)
from vit_interactions.utilities.checks import check_fraction, check_index


class AttentionRollout(PairMapped, Explainer):
    """The contribution of each input patch to the readout, through the attention of all layers.

    Keeps one (tokens, tokens) matrix per layer, with the heads fused. The pair map is the product of these matrices
    among patches, which costs layers · tokens² · patches operations: 0.2 GFLOP for 196 patches and 12 layers, 62 for
    1369.

    Example:
        >>> import timm, torch
        >>> explainer = AttentionRollout(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160)).sum() < 1  # the class token keeps a share
        tensor(True)
    """

    quantity = "contribution to the readout"
    source = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"
    run_settings = ("exclude_sinks",)

    def __init__(
        self,
        model: nn.Module,
        fusion: Fusion = "mean",
        discard: float = 0.0,
        alpha: float = 1.0,
        start_layer: int = 0,
        exclude_sinks: bool = False,
    ) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            fusion: "mean" (the paper), "max" or "min" over heads.
            discard: fraction of each layer's entries, the smallest, set to 0 before the rows are normalized;
                0 as in the paper.
            alpha: weight of the residual connection, ≥ 0; 1 as in the paper.
            start_layer: the first layer used, counted from 0.
            exclude_sinks: leave out the patches that are attention sinks, by the attention of all layers; see
                `attention_sinks`. In every layer, the attention to them is shared among the other tokens before the
                residual connection is added; see `functional.rollout.without_columns`.

        Raises:
            ValueError: an option outside its range.
        """
        super().__init__(model)
        check_fusion(fusion)
        check_fraction("discard", discard)
        check_alpha(alpha)
        if check_index("start_layer", start_layer) < 0:
            raise ValueError(f"`start_layer` must be >= 0, got {start_layer}.")
        self.fusion, self.discard, self.alpha, self.start_layer = fusion, discard, alpha, start_layer
        self.exclude_sinks = exclude_sinks

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        fused, seen = self._layers(inputs, target, additional_forward_args)
        readout = seen.readout().to(fused[0].dtype)
        return rollout(fused, readout, alpha=self.alpha)[:, seen.layout.prefix :], seen.layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        fused, seen = self._layers(inputs, target, additional_forward_args)
        readouts = patch_readouts(fused[0][:, 0], seen.layout.prefix)
        return chain(readouts, reversed(fused), self.alpha, normalize=True)[..., seen.layout.prefix :]

    def _layers(
        self, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> tuple[list[Tensor], Observation]:
        """Compute the fused attention (batch, tokens, tokens) of each used layer."""
        fused: list[Tensor] = []
        layers = 0
        sinks = RunningSinks()

        def fuse(call: AttentionCall, layout: TokenLayout) -> None:
            nonlocal layers
            used = layers >= self.start_layer
            layers += 1
            if not (used or self.exclude_sinks):
                return
            attention = call.attention()
            if used:
                fused.append(self._fuse(attention, layout))
            if self.exclude_sinks:
                sinks.add(attention[:, :, layout.prefix :].mean(-2), call.value, call.name)

        seen = self._observe(inputs, target, additional_forward_args, fuse)
        if not fused:
            raise ValueError(f"`start_layer` must be < {layers}, the model's layers, got {self.start_layer}.")
        if self.exclude_sinks:
            patches = sinks.result(seen.layout.grid).patches
            exclude = torch.nn.functional.pad(patches, (seen.layout.prefix, 0))
            for index, attention in enumerate(fused):  # in place: matrices of all layers are large
                fused[index] = without_columns(attention, exclude)
        return fused, seen

    @torch.no_grad()
    def _fuse(self, attention: Tensor, layout: TokenLayout) -> Tensor:
        fused = fuse_heads(attention, self.fusion)
        if self.discard:
            fused = discard_smallest(fused, self.discard, keep_first=layout.readout in ("token", "distilled"))
        return fused
