"""Find out from the autograd graph of a forward pass what depends on what."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

Node = Any  # torch.autograd.graph.Node, whose stubs lack most of what is used here


def node_of(tensor: Tensor) -> Node | None:
    """Return the graph node that produces a tensor; None for one outside the graph."""
    return get_gradient_edge(tensor).node if tensor.requires_grad else None


def name_of(node: Node) -> str:
    """Return what a node computes, such as "MulBackward0"; custom functions may have a `name` of another kind."""
    return node.name() if callable(node.name) else type(node).__name__


def has_no_derivative(nodes: Iterable[Node]) -> bool:
    """Return whether any of these nodes is the placeholder of torch for an operation without a derivative."""
    return any(name_of(node).endswith("WarnNotImplemented") for node in nodes)


def noise(like: Tensor, seed: int = 0) -> Tensor:
    """Draw normal numbers of a tensor's shape, type and device without advancing global generators.

    Example:
        >>> import torch
        >>> torch.equal(noise(torch.ones(2, 3)), noise(torch.zeros(2, 3)))
        True
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device="cpu").to(like.device, like.dtype)


def ancestors(starts: Iterable[Node | None], marks: Mapping[Node, int], barriers: int = 0) -> dict[Node, int]:
    """Find which marked nodes each node depends on.

    Args:
        starts: nodes to walk back from.
        marks: a bit for each marked node. A residual connection may lead past a marked node.
        barriers: bits of the marked nodes at which the walk stops.

    Returns:
        For every node visited, the union of the bits of the marked nodes behind it, itself included.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = x * 2
        >>> z = y + x
        >>> found = ancestors([z.grad_fn], {node_of(x): 1, y.grad_fn: 2})
        >>> found[z.grad_fn], found[y.grad_fn]
        (3, 3)
    """
    found: dict[Node, int] = {}
    for start in starts:
        # An explicit stack: graphs are deeper than Python's recursion allows.
        stack = [start]
        while stack:
            node = stack[-1]
            if node is None or node in found:
                stack.pop()
                continue
            bit = marks.get(node, 0)
            parents = [] if bit & barriers else [parent for parent, _ in node.next_functions if parent is not None]
            waiting = [parent for parent in parents if parent not in found]
            if waiting:
                stack += waiting
                continue
            for parent in parents:
                bit |= found[parent]
            found[node] = bit
            stack.pop()
    return found
