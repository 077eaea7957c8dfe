"""Transition attention maps (TAM): attention as a Markov chain, weighted by an integrated gradient.

Source: Yuan, Li, Xiong, Cao and Dou, "Explaining Information Flow Inside Vision Transformers Using Markov Chain",
XAI4Debugging at NeurIPS 2021. Readouts other than the class token are an extension of this library.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.attention_path import PathExplainer, read_tokens
from vit_interactions.functional.attention import without_autocast
from vit_interactions.functional.transition_attention import transition_state

START = 4  # the authors' first block, counted from 0


class TransitionAttention(PathExplainer):
    """The state of a Markov chain of attention from the readout, times the integrated gradient at the last attention.

    With Ā_l the mean of a block's heads, blocks counted 0..L-1, and p the readout (the class token):

        map = pᵀ Ā_{L-1} (Ā_{L-2} + I) ··· (Ā_start + I)  ·  pᵀ mean_h max(1/m Σ_k ∂s/∂A_{L-1}(k/(m-1) x), 0)

    For readouts other than the class token, both factors are averaged over the readout tokens, an extension of this
    library. Values are ≥ 0 and proportional to the score.

    Cost: `steps` forward passes, and as many backward passes that end at the last block's attention.

    Example:
        >>> import timm, torch
        >>> explainer = TransitionAttention(timm.create_model("test_vit"), steps=2)
        >>> explainer.patch_map(torch.ones(1, 3, 160, 160), target=7).shape
        torch.Size([1, 10, 10])
    """

    quantity = "transition × integrated gradient"
    source = "Yuan et al., Explaining Information Flow Inside Vision Transformers, XAI4Debugging 2021"

    def __init__(self, model: nn.Module, steps: int = 20, start: int | None = None) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            steps: points m of the path from the zero image to the image, both included; 1 takes the gradient at
                the image itself, without integration.
            start: the first block of the chain, counted from 0; 4 is the authors' method, 0 their evaluation. None is
                4, or the last block of a model with fewer than five.

        Raises:
            ValueError: an option outside its range; when explaining, a model with at most `start` blocks.
        """
        super().__init__(model, steps)
        if start is not None and start < 0:
            raise ValueError(f"`start` must be >= 0, got {start}.")
        self.start = start

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        trace = self._backtrace(inputs, target, additional_forward_args, first=-1)
        blocks = len(trace.record.calls)
        start = min(START, blocks - 1) if self.start is None else self.start
        if blocks <= start:
            raise ValueError(f"`start` must be < {blocks}, the model's blocks, got {start}.")
        with torch.no_grad():
            readout = trace.readout()
            used = reversed(trace.record.calls[start:])
            state = transition_state((call.attention().mean(1) for call in used), readout)
            rows = read_tokens(readout)
        weights = self._path_gradient(trace, inputs, target, additional_forward_args, rows)
        with torch.no_grad(), without_autocast(weights):
            shares = readout[:, rows].to(weights.dtype).unsqueeze(1)
            return (state * (shares @ weights).squeeze(1))[:, trace.layout.prefix :], trace.layout
