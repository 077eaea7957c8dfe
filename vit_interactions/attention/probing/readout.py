"""Find the tokens that a model reads its output from, from the graph behind its last attention call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.graph import Node, ancestors, name_of, node_of, noise

ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference of the gradients of tokens read alike
ALIKE_IN_HALF = 2e-2
GROUPS = 2  # tokens that are read in more ways than these are no fixed share of each


@dataclass(frozen=True)
class Reading:
    """The way in which a score is read from the tokens of the last layer.

    Attributes:
        groups: tokens that are read alike, at most `GROUPS` + 1 groups; empty where no tensor of all tokens lies
            between the last layer and the score.
        complete: whether the score depends on the last layer by these tokens only.
        apart: whether each of them depends on the same token of the last layer only.
        shares: each token's share, where all are read alike but for a weight that is not negative.
    """

    groups: list[list[int]]
    complete: bool = True
    apart: bool = True
    shares: tuple[float, ...] | None = field(default=None, compare=False)


def read_tokens(
    score: Tensor, until: Sequence[Tensor], nodes: Sequence[Node], tokens: int, earlier: Sequence[Tensor] = ()
) -> Reading:
    """Find the tokens that a score is read from, and group them by the way they are read.

    The tensor of all tokens that is nearest to the score is looked at: averaged tokens have one gradient there, tokens
    beside each other (class token and mean of the patches) different ones, all others none.

    Args:
        score: scalar, computed from the model's output.
        until: the outputs (..., tokens, width) of the last layer's attention calls, where the backward pass ends.
        nodes: those between the two.
        tokens: how many tokens there are.
        earlier: the outputs of the other layers' attention calls.

    Example:
        >>> tokens = torch.ones(1, 3, 2, requires_grad=True)
        >>> state = tokens * 1
        >>> score = (state[:, 1:].mean(1) * torch.tensor([1.0, -2.0])).sum()
        >>> from vit_interactions.attention.graph import ancestors
        >>> read_tokens(score, [tokens], list(ancestors([score.grad_fn], {})), 3)
        Reading(groups=[[1, 2]], complete=True, apart=True, shares=(0.0, 0.5, 0.5))
    """
    pull = partial(_pull, score, nodes, tokens)
    seen, _ = pull(until, lambda rows: rows)
    if seen is None:  # perhaps hidden by a classifier that starts at zero
        pull = partial(pull, revive=True)
        seen, _ = pull(until, lambda rows: rows)
    if seen is None:
        return Reading([])
    node, gradient = seen
    _, bypass = pull(until, torch.zeros_like)
    complete = not bypass.any()
    if complete and earlier and _reaches(score, [*until, *earlier], node):
        complete = not pull(earlier, torch.zeros_like)[1].any()
    came_from = _sources(partial(pull, until), tokens, until[0].dtype, bypass)
    if came_from is None:
        return Reading([], complete, apart=False)
    rows = gradient.to(until[0].dtype)
    groups = [[place for place, source in enumerate(came_from) if source in group] for group in _group(rows)]
    return Reading(groups, complete, shares=_shares(rows, came_from))


def _reaches(score: Tensor, outputs: Sequence[Tensor], past: Node) -> bool:
    """Return whether the graph leads from a score to outputs of layers past the tensor that was looked at."""
    marks = {**{node_of(output): 2 for output in outputs if output.requires_grad}, past: 1}
    return bool(ancestors([node_of(score)], marks, 3)[node_of(score)] & 2)


def reads_every_group(answer: Tensor, until: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> bool:
    """Return whether each number of an answer is read from all of these groups of tokens, or none from one of them.

    What changes with a group of tokens comes from the derivative of the backward pass (a push forward).

    Args:
        answer: what the model returned, in the graph.
        until: the outputs (..., tokens, width) of the last layer's attention calls.
        groups: tokens.

    Example:
        >>> tokens = torch.ones(1, 2, 3, requires_grad=True)
        >>> halves = torch.cat((tokens[:, 0], tokens[:, 1]), 1)
        >>> reads_every_group(halves, [tokens], [[0], [1]])
        False
        >>> reads_every_group(halves.cumsum(1)[:, 3:], [tokens], [[0], [1]])
        True
    """
    cotangent = torch.zeros_like(answer, requires_grad=True)
    try:
        pulled = torch.autograd.grad(
            answer, list(until), cotangent, create_graph=True, allow_unused=True, materialize_grads=True
        )
        for group in groups:
            chosen = torch.zeros(until[0].shape[-2], device=answer.device).index_fill(
                0, torch.tensor(list(group), device=answer.device), 1
            )
            tangents = [noise(part) * chosen.to(part.dtype)[:, None] for part in pulled]
            (pushed,) = torch.autograd.grad(
                pulled, cotangent, tangents, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if pushed.any() and not pushed.all():
                return False
    except (RuntimeError, NotImplementedError):  # an operation that has no second derivative
        return False
    return True


def weighs_places(node: Node, tokens: int) -> bool:
    """Return whether a node multiplies all tokens by numbers of their places, which do not come from the image.

    Example:
        >>> x = torch.ones(1, 3, 2, requires_grad=True)
        >>> weighs_places((x * torch.tensor([[1.0], [2.0], [3.0]])).grad_fn, 3), weighs_places((x * 2).grad_fn, 3)
        (True, False)
    """
    if not name_of(node).startswith("MulBackward"):
        return False
    for factor in (node._saved_self, node._saved_other):
        # Broadcast: the tokens are the last axis but one.
        if (
            isinstance(factor, Tensor)
            and factor.ndim > 1
            and factor.shape[-2] == tokens
            and not factor.requires_grad
        ):
            return bool((factor != factor[..., :1, :]).any())
    return False


def _shares(rows: Tensor, came_from: Sequence[int]) -> tuple[float, ...] | None:
    """Weight tokens of which all gradients (tokens, rest) have one direction; None where they have not."""
    limit = ALIKE.get(rows.dtype, ALIKE_IN_HALF)
    rows = rows.double().cpu()
    largest = rows[rows.norm(dim=1).argmax()]
    size = largest.square().sum()
    weights = rows @ largest / size if size > 0 else torch.zeros(len(rows))
    apart = (rows - weights[:, None] * largest).norm(dim=1) > limit * largest.norm()
    if not weights.any() or apart.any() or (weights < -limit).any():
        return None
    weights = torch.where(weights.abs() <= limit, 0.0, weights)[list(came_from)]
    return tuple((weights / weights.sum()).tolist())


def _sources(
    pull_changed: Callable[[Callable[[Tensor], Tensor]], tuple[Any, Tensor]],
    tokens: int,
    dtype: torch.dtype,
    bypass: Tensor,
) -> list[int] | None:
    """Return the token that each token of the last layer becomes where they are read; None if they are mixed.

    Read like the pixels in `patches.pixel_tokens`, digit by digit.
    """
    base = 256 if dtype in (torch.float32, torch.float64) else 4

    def pull(digits: Tensor) -> Tensor:
        change = lambda rows: noise(rows) * digits.to(rows)[:, None]  # noqa: E731
        return pull_changed(change)[1].double() - bypass.double()

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
    score: Tensor,
    nodes: Sequence[Node],
    tokens: int,
    until: Sequence[Tensor],
    change: Callable[[Tensor], Tensor],
    revive: bool = False,
) -> tuple[tuple[Node, Tensor] | None, Tensor]:
    """Backpropagate a score, changing the gradient (tokens, rest) where all tokens are first together.

    Args:
        score: as of `read_tokens`, like the next two.
        nodes: those between the score and the last layer.
        tokens: how many there are.
        until: where the backward pass ends.
        change: of the gradient.
        revive: whether random numbers take the place of gradients that are zero.

    Returns:
        The node and that gradient before the change, None without any; and the gradient (tokens, rest) at the end, on
        the CPU.
    """
    seen: list[tuple[Node, Tensor]] = []

    def look(node: Node, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        if seen:
            return gradients
        alive = [noise(g) if revive and g is not None and not g.any() else g for g in gradients]
        for place, gradient in enumerate(alive):
            if gradient is None or not gradient.any():
                continue
            axis = _axis(gradient, tokens, len(until[0]))
            if axis is not None:
                rows = gradient.detach().movedim(axis, 0)
                seen.append((node, rows.flatten(1)))
                alive[place] = change(rows.flatten(1)).reshape(rows.shape).movedim(0, axis)
        return tuple(alive)

    handles = [node.register_prehook(partial(look, node)) for node in nodes]
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
