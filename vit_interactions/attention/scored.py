"""Find the tokens that a score of the user's own is read from, where a model returns more than classes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vit_interactions.attention.examine import name_readout
from vit_interactions.attention.graph import ancestors, node_of
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.readout import read_tokens
from vit_interactions.attention.record import AttentionCall

LAST, POOL = 1, 2


def layout_of_score(
    layout: TokenLayout, output: Any, score: Tensor, last: AttentionCall, pools: Sequence[AttentionCall]
) -> TokenLayout:
    """Return a layout with the readout of a score, which may read other tokens than the model's main output does.

    A function as target may take one patch, or the mean of the patches, out of all tokens that a model returns.

    Args:
        layout: of the model, with the readout of its main output.
        output: of the model. One of shape (batch,) or (batch, classes) leaves no choice of tokens.
        score: scalar, computed from the output, in the graph.
        last: the last layer, in the graph.
        pools: the calls of a pooling head.
    """
    if isinstance(output, Tensor) and output.ndim <= 2:
        return layout
    marks = {node_of(z): LAST for z in last.outputs} | {node_of(z): POOL for call in pools for z in call.outputs}
    nodes = ancestors([node_of(score)], marks, LAST | POOL)
    if nodes[node_of(score)] == POOL:
        return layout
    order = layout.order or tuple(range(layout.tokens))
    prefix = order[: layout.prefix]
    reading = read_tokens(score, list(last.outputs), list(nodes), layout.tokens)
    groups = [set(group) for group in reading.groups]
    read = set().union(*groups)
    first = read & set(prefix) == set(prefix[: len(read & set(prefix))])
    known = reading.complete and reading.apart and bool(groups) and first
    return replace(
        layout,
        readout=name_readout(groups, set(prefix), set(order) - set(prefix)) if known else "other",
        pool_prefix=bool(prefix) and groups == [set(order)],
    )
