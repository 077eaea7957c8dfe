"""Generic attention explainability, the self-attention case.

Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021, Eqs. 5 and 6. Readouts other than the class token are an extension of this library.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.libra_grad import Gradient
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.chain import chain_without_identity, patch_readouts
from vit_interactions.utilities.checks import check_index


class GenericAttention(PairMapped, GradientExplainer):
    """Relevance gathered through the layers: R ← R + E_l R, E_l = mean over heads of max(A_l * G_l, 0).

    Neither normalized nor invariant to the scale of the score. The identity in R is subtracted: it would add the same
    value to every patch that is read directly. The pair map is R - I among patches, which costs layers · tokens² ·
    patches operations.

    Example:
        >>> import timm, torch
        >>> explainer = GenericAttention(timm.create_model("test_vit"))
        >>> (explainer.patch_map(torch.zeros(1, 3, 160, 160), target=3) >= 0).all()
        tensor(True)
    """

    quantity = "relevance"
    source = "Chefer, Gur and Wolf, Generic Attention-model Explainability, ICCV 2021, arXiv 2103.15679"

    def __init__(self, model: nn.Module, start_layer: int = 0, gradient: Gradient = "plain") -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            start_layer: 0 for heatmaps; the segmentation of the CVPR paper starts at 1.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.

        Raises:
            ValueError: an unknown gradient; `start_layer` < 0; later, as many as the model has layers, or more.
        """
        super().__init__(model, gradient)
        if check_index("start_layer", start_layer) < 0:
            raise ValueError(f"`start_layer` must be >= 0, got {start_layer}.")
        self.start_layer = start_layer

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._used(inputs, target, additional_forward_args)
        evidence = self._evidence(seen, inputs, target, additional_forward_args)
        return self._gather(seen.readout(), seen, evidence), seen.layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        seen = self._used(inputs, target, additional_forward_args)
        evidence = self._evidence(seen, inputs, target, additional_forward_args)
        return self._gather(patch_readouts(seen.readout(), seen.layout.prefix), seen, evidence)

    def _used(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Backtrace:
        seen = self._backtrace(inputs, target, additional_forward_args)
        count = len(seen.gradients)
        if self.start_layer >= count:
            raise ValueError(f"`start_layer` must be < {count}, the model's layers, got {self.start_layer}.")
        return seen

    def _evidence(
        self, seen: Backtrace, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> Iterable[Tensor]:
        """Compute what each gradient is multiplied with, (batch, heads, tokens, tokens) per layer from the top."""
        return (layer.attention() for layer in seen.layers_from_the_top())

    def _gather(self, readout: Tensor, seen: Backtrace, evidence: Iterable[Tensor]) -> Tensor:
        """Gather the relevance of the patches to each readout (batch, tokens) or (batch, readouts, tokens)."""
        used = len(seen.gradients) - self.start_layer
        layers = islice(zip(seen.layers_from_the_top(), evidence, strict=True), used)
        fused = ((factor * layer.gradient()).clamp(min=0).mean(1) for layer, factor in layers)
        relevance = chain_without_identity(readout, fused)
        if not relevance.isfinite().all():
            raise ValueError(
                "the relevance of the patches is not finite: it overflowed on its way through the layers. Use a "
                "float32 or float64 model."
            )
        return relevance[..., seen.layout.prefix :]
