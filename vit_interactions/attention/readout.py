"""Find the tokens that a model reads its output from, from the graph behind its last attention call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vit_interactions.attention.graph import Node

ALIKE = 1e-3  # relative difference up to which the gradients of two tokens count as the same
GROUPS = 3  # more tokens than these that are read each in its own way are no fixed share of each


def read_groups(score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int) -> list[list[int]]:
    """Group the tokens that a score is read from by the way they are read.

    The tensor of all tokens that is nearest to the score is looked at: tokens that are averaged have one gradient
    there, tokens beside each other (class token and mean of the patches) different ones, all others none.

    Args:
        score: scalar, computed from the model's output.
        until: the outputs of the attention calls at which the backward pass ends.
        nodes: those between the two.
        tokens: how many tokens there are.

    Returns:
        Groups of indices of tokens; empty where no tensor of all tokens lies between.
    """
    seen: list[Tensor] = []

    def look(gradients: tuple[Tensor | None, ...]) -> None:
        if not seen:
            seen.extend(_by_token(g.detach(), tokens) for g in gradients if g is not None and tokens in g.shape)

    handles = [node.register_prehook(look) for node in nodes]
    try:
        torch.autograd.grad(score, list(until), retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return _group(seen[0]) if seen else []


def _by_token(gradient: Tensor, tokens: int) -> Tensor:
    """Bring the axis of tokens to the front, which is the second of three where several are as long: (tokens, rest)."""
    axes = [axis for axis, length in enumerate(gradient.shape) if length == tokens]
    axis = 1 if gradient.ndim == 3 and 1 in axes else axes[0]
    return gradient.movedim(axis, 0).flatten(1)


def _group(gradients: Tensor) -> list[list[int]]:
    """Group the rows that are alike; rows of zeros are left out."""
    gradients = gradients.double()
    groups: list[list[int]] = []
    limit = ALIKE * gradients.norm(dim=1).max()
    for index in (gradients.norm(dim=1) > 0).nonzero().flatten().tolist():
        own = next((g for g in groups if (gradients[g[0]] - gradients[index]).norm() <= ALIKE * gradients[index].norm()), None)
        if own is None:
            groups.append([index])
        else:
            own.append(index)
        if len(groups) > GROUPS:
            break
    del limit
    return groups
