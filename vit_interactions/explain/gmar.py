"""GMAR: attention rollout with heads weighted by their gradients.

Source: Jo, Jang and Park, "GMAR: Gradient-Driven Multi-Head Attention Rollout", ICIP 2025, arXiv 2504.19414. The paper
and the published code disagree. The defaults are attention rollout with the head weights of the paper; the options give
the other versions:

- `residual`: "product" multiplies (A~ + αI) layer by layer; "horner" adds αI once per layer, R ← A~ R + αI.
- `order`: "top_down" is A~_L ··· A~_1, from output to input; "as_published" multiplies in reverse, A~_1 ··· A~_L.
- `row_norm`: divide rows by their sums; the published code does not.
- `score_from`: weight heads by the gradient at "attention" or at each "head_output".
- `scope`: head weights per layer ("per_layer"), or those of the last layer for all ("last_layer").

Readouts other than the class token are an extension of this library.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Backtrace, LayerGradient
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.chain import Order, chain, horner, patch_readouts
from vit_interactions.functional.gmar import Norm, head_weights, weighted_heads
from vit_interactions.functional.rollout import check_alpha
from vit_interactions.utilities.checks import check_choice


class GMAR(PairMapped, GradientExplainer):
    """The contribution of each input patch to the readout, with heads weighted by the norm of their gradients.

    Class-specific through the head weights only. A score and its negative give the same map. The pair map is the same
    product among patches, which costs layers · tokens² · patches operations.

    Example:
        >>> import timm, torch
        >>> explainer = GMAR(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160), target=3).sum() < 1  # the class token keeps a share
        tensor(True)
    """

    quantity = "contribution to the readout"
    source = "Jo, Jang and Park, GMAR: Gradient-Driven Multi-Head Attention Rollout, ICIP 2025, arXiv 2504.19414"

    def __init__(
        self,
        model: nn.Module,
        norm: Norm = "l2",
        *,
        alpha: float = 1.0,
        residual: Literal["product", "horner"] = "product",
        order: Order = "top_down",
        row_norm: bool = True,
        score_from: Literal["attention", "head_output"] = "attention",
        scope: Literal["per_layer", "last_layer"] = "per_layer",
    ) -> None:
        """Create the explainer; for the sources of the options see the module docstring.

        Args:
            model: any ViT.
            norm: norm of a head's gradient, "l1" or "l2".
            alpha: weight of the residual connection, ≥ 0.
            residual: "product" or "horner".
            order: "top_down" or "as_published".
            row_norm: divide rows by their sums.
            score_from: "attention" or "head_output".
            scope: "per_layer" or "last_layer".

        Raises:
            ValueError: an option outside its range.
        """
        super().__init__(model)
        check_choice("norm", norm, ("l1", "l2"))
        check_choice("residual", residual, ("product", "horner"))
        check_choice("order", order, ("top_down", "as_published"))
        check_choice("score_from", score_from, ("attention", "head_output"))
        check_choice("scope", scope, ("per_layer", "last_layer"))
        check_alpha(alpha)
        self.norm, self.alpha, self.residual, self.order = norm, alpha, residual, order
        self.row_norm, self.score_from, self.scope = row_norm, score_from, scope

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        return self._propagate(seen.readout(), seen), seen.layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        seen = self._backtrace(inputs, target, additional_forward_args)
        return self._propagate(patch_readouts(seen.readout(), seen.layout.prefix), seen)

    def _propagate(self, readout: Tensor, seen: Backtrace) -> Tensor:
        """Propagate readouts (batch, tokens) or (batch, readouts, tokens) to the patches."""
        fused = self._fused(seen)
        if self.residual == "product":
            relevance = chain(readout, fused, self.alpha, normalize=self.row_norm)
        else:
            relevance = horner(readout, fused, self.alpha, self.order)
            if self.row_norm:
                relevance = relevance / relevance.sum(-1, keepdim=True)
        return relevance[..., seen.layout.prefix :]

    def _fused(self, seen: Backtrace) -> Iterator[Tensor]:
        """Yield A~ layer by layer, starting next to the readout."""
        shared = self._weights(next(seen.layers_from_the_top())) if self.scope == "last_layer" else None
        layers = seen.layers_from_the_top() if self.order == "top_down" else seen.layers()
        for layer in layers:
            weights = self._weights(layer) if shared is None else shared
            yield weighted_heads(layer.attention(), weights)

    def _weights(self, layer: LayerGradient) -> Tensor:
        gradient = layer.gradient() if self.score_from == "attention" else layer.output_gradient
        return head_weights(at_least_float32(gradient), self.norm)
