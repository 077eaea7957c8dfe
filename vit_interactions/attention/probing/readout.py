"""Find the tokens that a model reads its output from, from the graph behind its last attention call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.graph import Node, ancestors, name_of, node_of, noise
from vit_interactions.attention.patches import index_digits

ALIKE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference of the gradients of tokens read alike
ALIKE_IN_HALF = 2e-2
GROUPS = 2  # most ways of reading tokens that give each a fixed share


@dataclass(frozen=True)
class Reading:
    """The way in which a score is read from the tokens of the last layer.

    Attributes:
        groups: tokens that are read alike, at most `GROUPS` + 1 groups; empty if no tensor of all tokens lies
            between the last layer and the score.
        complete: whether the score depends on the last layer only through these tokens.
        apart: whether each token depends on one token of the last layer only.
        shares: each token's share, if all are read alike up to a weight that is not negative.
    """

    groups: list[list[int]]
    complete: bool = True
    apart: bool = True
    shares: tuple[float, ...] | None = field(default=None, compare=False)


def read_tokens(
    score: Tensor, last: Sequence[Tensor], nodes: Sequence[Node], tokens: int, earlier: Sequence[Tensor] = ()
) -> Reading:
    """Find the tokens that a score is read from, and group them by the way they are read.

    Inspects the gradient at the tensor of all tokens that is nearest to the score: tokens that are averaged have one
    gradient, concatenated ones (class token and mean of the patches) different ones, and all others none.

    Args:
        score: scalar, computed from the model's output.
        last: the outputs (..., tokens, width) of the last layer's attention calls, where the backward pass ends.
        nodes: the nodes between the two.
        tokens: number of tokens.
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
    found, _ = pull(last, lambda rows: rows)
    if found is None:  # perhaps hidden by a classifier that starts at zero
        pull = partial(pull, revive=True)
        found, _ = pull(last, lambda rows: rows)
    if found is None:
        return Reading([])
    node, gradient = found
    _, bypass = pull(last, torch.zeros_like)
    complete = not bypass.any()
    if complete and earlier:
        # Does the graph lead from the score to attention calls past the inspected tensor?
        marks = {**{node_of(output): 2 for output in (*last, *earlier) if output.requires_grad}, node: 1}
        start = node_of(score)
        if ancestors([start], marks, 3)[start] & 2:
            complete = not pull(earlier, torch.zeros_like)[1].any()
    came_from = _sources(partial(pull, last), tokens, last[0].dtype, bypass)
    if came_from is None:
        return Reading([], complete, apart=False)
    rows = gradient.to(last[0].dtype)
    groups = [[place for place, source in enumerate(came_from) if source in group] for group in _group(rows)]
    return Reading(groups, complete, shares=_shares(rows, came_from))


def reads_every_group(output: Tensor, last: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> bool:
    """Return whether each group of tokens changes all numbers of an output or none.

    The derivative of the backward pass (a push forward) shows which numbers a group of tokens changes. `last` are the
    outputs (..., tokens, width) of the last layer's attention calls.

    Example:
        >>> tokens = torch.ones(1, 2, 3, requires_grad=True)
        >>> halves = torch.cat((tokens[:, 0], tokens[:, 1]), 1)
        >>> reads_every_group(halves, [tokens], [[0], [1]])
        False
        >>> reads_every_group(halves.cumsum(1)[:, 3:], [tokens], [[0], [1]])
        True
    """
    cotangent = torch.zeros_like(output, requires_grad=True)
    try:
        pulled = torch.autograd.grad(
            output, list(last), cotangent, create_graph=True, allow_unused=True, materialize_grads=True
        )
        for group in groups:
            chosen = torch.zeros(last[0].shape[-2], device=output.device)
            chosen[list(group)] = 1
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
    """Return whether a node multiplies tokens by different numbers that do not come from the image.

    Example:
        >>> x = torch.ones(1, 3, 2, requires_grad=True)
        >>> weighs_places((x * torch.tensor([[1.0], [2.0], [3.0]])).grad_fn, 3), weighs_places((x * 2).grad_fn, 3)
        (True, False)
    """
    if not name_of(node).startswith("MulBackward"):
        return False
    factors = [f for f in (node._saved_self, node._saved_other) if isinstance(f, Tensor) and not f.requires_grad]
    # Broadcast: the tokens are the last axis but one.
    weights = next((f for f in factors if f.ndim > 1 and f.shape[-2] == tokens), None)
    return weights is not None and bool((weights != weights[..., :1, :]).any())


def _shares(rows: Tensor, came_from: Sequence[int]) -> tuple[float, ...] | None:
    """Return the shares of tokens whose gradients (tokens, rest) all have one direction; None if they have not."""
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
    """Return the token of the last layer that each token that is read comes from; None if they are mixed.

    Token numbers are read digit by digit, as in `patches.pixel_tokens`.
    """
    base = 256 if dtype in (torch.float32, torch.float64) else 4

    def pull(digits: Tensor) -> Tensor:
        return pull_changed(lambda rows: noise(rows) * digits.to(rows)[:, None])[1].double() - bypass.double()

    plain = pull(torch.ones(tokens))
    size = plain.square().sum(1)
    if not size.any():  # an output projection that starts at zero hides all of it
        return list(range(tokens))
    code, apart = torch.zeros(tokens, dtype=torch.int64), True
    for place, digits in index_digits(tokens, base):
        found = pull(digits)
        ratio = (found * plain).sum(1) / size
        digit = ratio.nan_to_num().round()
        rest = (found - digit[:, None] * plain).square().sum(1)
        limit = ALIKE.get(dtype, 2 * ALIKE_IN_HALF) * int(digits.max())
        apart = apart and not (rest > limit**2 * size).any()
        code += digit.long() * place
    one_to_one = len(set(code.tolist())) == tokens and bool((code >= 0).all() and (code < tokens).all())
    return code.tolist() if apart and one_to_one else None


def _pull(
    score: Tensor,
    nodes: Sequence[Node],
    tokens: int,
    ends: Sequence[Tensor],
    change: Callable[[Tensor], Tensor],
    revive: bool = False,
) -> tuple[tuple[Node, Tensor] | None, Tensor]:
    """Backpropagate a score to `ends`, changing the gradient (tokens, rest) at the first tensor of all tokens.

    With `revive`, gradients that are zero are replaced by random numbers.

    Returns:
        The node of that tensor with its gradient before the change, None if none was found; and the gradient
        (tokens, rest) at the ends, on the CPU.
    """
    found: list[tuple[Node, Tensor]] = []

    def hook(node: Node, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        if found:
            return gradients
        alive = [noise(g) if revive and g is not None and not g.any() else g for g in gradients]
        for place, gradient in enumerate(alive):
            if gradient is None or not gradient.any():
                continue
            # The axis of tokens is not that of the batch.
            first = int(gradient.shape[0] == len(ends[0])) if gradient.ndim > 2 else gradient.ndim
            axis = next((axis for axis in range(first, gradient.ndim) if gradient.shape[axis] == tokens), None)
            if axis is not None:
                rows = gradient.detach().movedim(axis, 0)
                found.append((node, rows.flatten(1)))
                alive[place] = change(rows.flatten(1)).reshape(rows.shape).movedim(0, axis)
        return tuple(alive)

    handles = [node.register_prehook(partial(hook, node)) for node in nodes]
    try:
        pulled = torch.autograd.grad(
            score, list(ends), retain_graph=True, allow_unused=True, materialize_grads=True
        )
    finally:
        for handle in handles:
            handle.remove()
    rows = torch.cat([gradient.detach().movedim(-2, 0).flatten(1) for gradient in pulled], 1)
    return (found[0] if found else None), rows.cpu()


def _group(gradients: Tensor) -> list[list[int]]:
    """Group the rows that are alike, without rows of zeros."""
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
