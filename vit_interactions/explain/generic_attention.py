"""Generic attention explainability, the self-attention case.

Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021, Eqs. 5 and 6. Readouts other than the class token are this library's.
"""

from itertools import islice
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.functional.chain import chain_without_identity


class GenericAttention(GradientExplainer):
    """Relevance gathered through the layers: R ← R + E_l R, E_l = mean over heads of max(A_l * G_l, 0).

    Not normalised, and not invariant to the scale of the score. The identity in R, which would add the same to every
    patch that is read directly, is taken off.

    Example:
        >>> import timm, torch
        >>> explainer = GenericAttention(timm.create_model("test_vit"))
        >>> (explainer.patch_map(torch.zeros(1, 3, 160, 160), target=3) >= 0).all()
        tensor(True)
    """

    quantity = "relevance"
    source = "Chefer, Gur and Wolf, Generic Attention-model Explainability, ICCV 2021, arXiv 2103.15679"

    def __init__(self, model: nn.Module, start_layer: int = 0) -> None:
        """Take the model and the first layer to take part.

        Raises:
            ValueError: `start_layer` < 0; later, as many as the model has layers, or more.
        """
        super().__init__(model)
        if start_layer < 0:
            raise ValueError(f"`start_layer` must be >= 0, but got {start_layer}.")
        self.start_layer = start_layer

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        seen = self._backtrace(inputs, target, additional_forward_args)
        if self.start_layer >= len(seen.gradients):
            raise ValueError(
                f"`start_layer` must be < {len(seen.gradients)}, the model's layers, but got {self.start_layer}."
            )
        layers = islice(seen.layers_from_the_top(), len(seen.gradients) - self.start_layer)
        fused = ((layer.attention() * layer.gradient()).clamp(min=0).mean(1) for layer in layers)
        relevance = chain_without_identity(seen.readout(), fused)
        return relevance[:, seen.layout.prefix :], seen.layout
