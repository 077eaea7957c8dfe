"""Transition attention maps: attention as the transitions of a Markov chain that starts at the readout.

Source: Yuan, Li, Xiong, Cao and Dou, "Explaining Information Flow Inside Vision Transformers Using Markov Chain",
XAI4Debugging at NeurIPS 2021.
"""

from collections.abc import Iterable

from torch import Tensor

from vit_interactions.functional.chain import apply_residual, chain


def transition_state(attentions: Iterable[Tensor], readout: Tensor) -> Tensor:
    """Propagate the readout down the layers: pᵀ Ā_L (Ā_{L−1} + I) ··· (Ā_start + I).

    As published, the identity is not added to the last layer, and nothing is normalized.

    Args:
        attentions: Ā (batch, tokens, tokens), averaged over heads, last layer first.
        readout: p (batch, tokens), weight of each output token in the readout.

    Returns:
        (batch, tokens).

    Raises:
        ValueError: no layer.

    Example:
        >>> import torch
        >>> last, first = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]), torch.tensor([[[0.9, 0.1], [0.4, 0.6]]])
        >>> transition_state([last, first], torch.tensor([[1.0, 0.0]]))  # (0, 1), then + (0.4, 0.6)
        tensor([[0.4000, 1.6000]])
    """
    downwards = iter(attentions)
    last = next(downwards, None)
    if last is None:
        raise ValueError("`attentions` must contain at least one layer, got none.")
    state = apply_residual(readout.to(last.dtype), last, alpha=0.0, normalize=False)
    return chain(state, downwards, normalize=False)
