"""Find the tokens that a model reads its output from, from the graph behind its last attention call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vit_interactions.attention.graph import Node

ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference of the gradients of tokens read alike
ALIKE_IN_HALF = 2e-2
GROUPS = 2  # tokens that are read in more ways than these are no fixed share of each


def read_groups(score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int) -> list[list[int]]:
    """Group the tokens that a score is read from by the way they are read.

    The tensor of all tokens that is nearest to the score is looked at: averaged tokens have one gradient there, tokens
    beside each other (class token and mean of the patches) different ones, all others none.

    Args:
        score: scalar, computed from the model's output.
        until: the outputs of the attention calls at which the backward pass ends.
        nodes: those between the two.
        tokens: how many tokens there are.

    Returns:
        Groups of indices of tokens, at most `GROUPS` + 1; empty where no tensor of all tokens lies between.

    Example:
        >>> tokens = torch.ones(1, 3, 2, requires_grad=True)
        >>> state = tokens * 1
        >>> score = (state[:, 1:].mean(1) * torch.tensor([1.0, -2.0])).sum()
        >>> from vit_interactions.attention.graph import ancestors
        >>> read_groups(score, [tokens], list(ancestors([score.grad_fn], {})), 3)
        [[1, 2]]
    """
    seen: list[Tensor] = []

    def look(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        if seen:
            return gradients
        # A classifier that starts at zero hides what lies before it.
        alive = tuple(g if g is None or g.any() else _noise(g) for g in gradients)
        seen.extend(
            _by_token(g.detach(), tokens, len(until[0])) for g in alive if g is not None and _has_tokens(g, tokens)
        )
        return alive

    handles = [node.register_prehook(look) for node in nodes]
    try:
        torch.autograd.grad(score, list(until), retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return _group(seen[0]) if seen else []


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator, device="cpu").to(like.device, like.dtype)


def _has_tokens(gradient: Tensor, tokens: int) -> bool:
    return gradient.ndim > 2 and tokens in gradient.shape


def _by_token(gradient: Tensor, tokens: int, batch: int) -> Tensor:
    """Bring the axis of tokens to the front: (tokens, rest). Of several as long it is that behind the batch."""
    axes = [axis for axis, length in enumerate(gradient.shape) if length == tokens]
    axis = 1 if 1 in axes and gradient.shape[0] == batch else axes[0]
    return gradient.movedim(axis, 0).flatten(1)


def _group(gradients: Tensor) -> list[list[int]]:
    """Group the rows that are alike; rows of zeros are left out."""
    limit = ALIKE.get(gradients.dtype, ALIKE_IN_HALF)
    gradients = gradients.double()
    left = gradients.norm(dim=1).gt(0).nonzero().flatten()
    groups: list[list[int]] = []
    while len(left) and len(groups) <= GROUPS:
        own = gradients[left[0]]
        alike = (gradients[left] - own).norm(dim=1) <= limit * own.norm()
        groups.append(left[alike].tolist())
        left = left[~alike]
    return groups
