"""Find the tokens that a model reads its output from, from the graph behind its last attention call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vit_interactions.attention.graph import Node, noise

ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference of the gradients of tokens read alike
ALIKE_IN_HALF = 2e-2
GROUPS = 2  # tokens that are read in more ways than these are no fixed share of each


@dataclass(frozen=True)
class Reading:
    """How a score is read from the tokens of the last layer.

    Attributes:
        groups: tokens that are read alike, at most `GROUPS` + 1 groups; empty where no tensor of all tokens lies
            between the last layer and the score.
        complete: whether the score depends on the last layer by these tokens only.
        apart: whether each of them depends on the same token of the last layer only.
    """

    groups: list[list[int]]
    complete: bool = True
    apart: bool = True


def read_tokens(score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int) -> Reading:
    """Find the tokens that a score is read from, and group them by the way they are read.

    The tensor of all tokens that is nearest to the score is looked at: averaged tokens have one gradient there, tokens
    beside each other (class token and mean of the patches) different ones, all others none.

    Args:
        score: scalar, computed from the model's output.
        until: the outputs (..., tokens, width) of the last layer's attention calls, where the backward pass ends.
        nodes: those between the two.
        tokens: how many tokens there are.

    Example:
        >>> tokens = torch.ones(1, 3, 2, requires_grad=True)
        >>> state = tokens * 1
        >>> score = (state[:, 1:].mean(1) * torch.tensor([1.0, -2.0])).sum()
        >>> from vit_interactions.attention.graph import ancestors
        >>> read_tokens(score, [tokens], list(ancestors([score.grad_fn], {})), 3)
        Reading(groups=[[1, 2]], complete=True, apart=True)
    """
    seen, _ = _pull(score, until, nodes, tokens, lambda rows: rows)
    if seen is None:
        return Reading([])
    _, bypass = _pull(score, until, nodes, tokens, torch.zeros_like)
    complete = not bypass.any()
    came_from = _sources(score, until, nodes, tokens, until[0].dtype, bypass)
    if came_from is None:
        return Reading([], complete, apart=False)
    groups = [
        [place for place, source in enumerate(came_from) if source in group]
        for group in _group(seen.to(until[0].dtype))
    ]
    return Reading(groups, complete)


def _sources(
    score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int, dtype: torch.dtype, bypass: Tensor
) -> list[int] | None:
    """Tell which token each token of the last layer becomes where they are read; None where they are mixed.

    Read like the pixels in `patches.pixel_tokens`, digit by digit.
    """
    base = 256 if dtype in (torch.float32, torch.float64) else 4

    def pull(digits: Tensor) -> Tensor:
        change = lambda rows: noise(rows) * digits.to(rows)[:, None]  # noqa: E731
        return _pull(score, until, nodes, tokens, change)[1].double() - bypass.double()

    plain = pull(torch.ones(tokens))
    size = plain.square().sum(1)
    if not size.any():  # an output projection that starts at zero hides all of it
        return list(range(tokens))
    code, place, apart = torch.zeros(tokens, dtype=torch.int64), 1, True
    while place == 1 or place < tokens:
        digits = torch.arange(tokens) // place % base
        found = pull(digits)
        ratio = (found * plain).sum(1) / size
        digit = ratio.nan_to_num().round()
        rest = (found - digit[:, None] * plain).square().sum(1)
        limit = ALIKE.get(dtype, 2 * ALIKE_IN_HALF) * int(digits.max())
        apart = apart and not (rest > limit**2 * size).any()
        code += digit.long() * place
        place *= base
    one_to_one = len(set(code.tolist())) == tokens and bool((code >= 0).all() and (code < tokens).all())
    return code.tolist() if apart and one_to_one else None


def _pull(
    score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor | None, Tensor]:
    """Pull a score back, changing the gradient (tokens, rest) where all tokens are first together.

    Returns:
        That gradient before the change, None without any; and the gradient (tokens, rest) at the end, on the CPU.
    """
    seen: list[Tensor] = []

    def look(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        if seen:
            return gradients
        # A classifier that starts at zero hides what lies before it.
        alive = [g if g is None or g.any() else noise(g) for g in gradients]
        for place, gradient in enumerate(alive):
            if gradient is None:
                continue
            axis = _axis(gradient, tokens, len(until[0]))
            if axis is not None:
                rows = gradient.detach().movedim(axis, 0)
                seen.append(rows.flatten(1))
                alive[place] = change(seen[-1]).reshape(rows.shape).movedim(0, axis)
        return tuple(alive)

    handles = [node.register_prehook(look) for node in nodes]
    try:
        pulled = torch.autograd.grad(
            score, list(until), retain_graph=True, allow_unused=True, materialize_grads=True
        )
    finally:
        for handle in handles:
            handle.remove()
    rows = torch.cat([gradient.detach().movedim(-2, 0).flatten(1) for gradient in pulled], 1)
    return (seen[0] if seen else None), rows.cpu()


def _axis(gradient: Tensor, tokens: int, batch: int) -> int | None:
    """Find the axis of tokens, not that of the batch; None where there is none."""
    first = 1 if gradient.shape[:1] == (batch,) else 0
    axes = (axis for axis in range(first, gradient.ndim) if gradient.shape[axis] == tokens)
    return next(axes, None) if gradient.ndim > 2 else None


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
