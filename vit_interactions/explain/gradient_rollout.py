"""Attention rollout weighted by gradients, corrected: each layer's attention with its own gradient.

Source: gradient rollout of the repository vit-explain (2020). Its code pairs attention with the gradients of the
layers in reverse order, taken at the scores before the softmax; this module computes what its description says.
Readouts other than the class token are an extension of this library.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.libra_grad import Gradient
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.chain import chain, patch_readouts
from vit_interactions.functional.rollout import check_alpha, discard_smallest
from vit_interactions.utilities.checks import check_fraction


class GradientRollout(PairMapped, GradientExplainer):
    """The contribution of each input patch to the readout, over attention times its positive gradient.

    E_l = max(mean over heads of A_l * G_l, 0); then as attention rollout, M_l = rownorm(E_l + α I). Not invariant to
    the scale of the score, because the weight of the identity is fixed. The pair map is the product of all M_l among
    patches, which costs layers · tokens² · patches operations.

    Example:
        >>> import timm, torch
        >>> explainer = GradientRollout(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    quantity = "contribution to the readout"
    source = "vit-explain (2020), corrected; after Abnar and Zuidema, ACL 2020"

    def __init__(
        self, model: nn.Module, discard: float = 0.0, alpha: float = 1.0, gradient: Gradient = "plain"
    ) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            discard: fraction of each layer's entries, the smallest, set to 0 before the rows are normalized.
            alpha: weight of the residual connection, ≥ 0.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.

        Raises:
            ValueError: an option outside its range.
        """
        super().__init__(model, gradient)
        check_fraction("discard", discard)
        check_alpha(alpha)
        self.discard, self.alpha = discard, alpha

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        relevance = chain(seen.readout(), self._fused(seen), self.alpha, normalize=True)
        return relevance[:, seen.layout.prefix :], seen.layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        seen = self._backtrace(inputs, target, additional_forward_args)
        readouts = patch_readouts(seen.readout(), seen.layout.prefix)
        return chain(readouts, self._fused(seen), self.alpha, normalize=True)[..., seen.layout.prefix :]

    def _fused(self, seen: Backtrace) -> Iterator[Tensor]:
        class_token = seen.layout.readout in ("token", "distilled")
        for layer in seen.layers_from_the_top():
            fused = (layer.attention() * layer.gradient()).mean(1).clamp(min=0)
            yield discard_smallest(fused, self.discard, keep_first=class_token) if self.discard else fused
