"""Attention flow: the maximum flow from the output to each input token, with attention as capacities.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, Sec. 4.2. The paper solves one
problem per token on the whole graph. This file finds the same values on parts of it; see `attention_flow`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vit_interactions.utilities.arrays import Array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# SciPy's maximum flow requires integers, so capacities are in millionths.
_UNIT = 1_000_000
# Edges per token and layer of the first part of the graph that is tried; each further part has twice as many.
_EDGES = 8


def attention_flow(capacities: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Compute the maximum flow from the readout at the top to each token at the bottom, for one image.

    Node (l, i), l = 0..L, has an edge to (l-1, j) of capacity M_l[i, j]; a source feeds the top tokens by `readout`.

    No flow to token j exceeds what leaves the source, Σ_i min(readout_i, Σ_k M_L[i, k]), or what enters the token,
    Σ_i M_1[i, j]. A flow through some of the edges that reaches the lower of the two is therefore a maximum flow. So
    each token is solved on the largest edges first, and on more edges only if its flow stays below that bound. The
    values are exact: those of the whole graph with capacities rounded to millionths.

    The time depends on the attention. It is shortest where few edges hold most of it. Tokens whose flow stays below the
    bound need the whole graph, L · tokens² edges.

    Args:
        capacities: M_l (tokens, tokens) ≥ 0 each, first layer first.
        readout: (tokens,) ≥ 0, weight of each top token in the readout.

    Returns:
        (tokens,) float64, each at most Σ readout.

    Example:
        >>> flow = attention_flow([torch.tensor([[0.25, 0.75], [0.5, 0.5]])], torch.tensor([1.0, 0.0]))
        >>> [round(value, 3) for value in flow.tolist()]
        [0.25, 0.75]
    """
    # Here and below: scipy takes a quarter of a second, and every other method does without it.
    from scipy.sparse.csgraph import maximum_flow

    matrices = [np.rint(matrix.double().cpu().numpy() * _UNIT).astype(np.int32) for matrix in capacities]
    fed = np.rint(readout.double().cpu().numpy() * _UNIT).astype(np.int32)
    bounds = np.minimum(
        matrices[0].sum(0, dtype=np.int64), np.minimum(fed, matrices[-1].sum(1, dtype=np.int64)).sum()
    )
    flows = np.full(len(fed), -1, dtype=np.int64)
    for graph in _graphs(matrices, fed):
        for token in np.nonzero(flows < bounds)[0]:
            graph.data[: len(fed)] = matrices[0][:, token]
            flows[token] = maximum_flow(graph, graph.shape[0] - 1, 0).flow_value
    return torch.tensor(flows / _UNIT, dtype=torch.float64, device=readout.device)


def _graphs(matrices: list[Array], fed: Array) -> Iterator["csr_matrix"]:
    """Yield ever larger parts of the graph, the whole graph last; the first `tokens` edges lead to the sink.

    The bottom tokens are one node, the sink, because only the edges to one of them matter at a time. The sink is node
    0, token i above layer l is node 1 + (l - 1) · tokens + i, and the source is the last node.
    """
    from scipy.sparse import csr_matrix

    layers, tokens = len(matrices), len(fed)
    source = layers * tokens + 1
    nodes = np.arange(tokens)
    (top,) = np.nonzero(fed)
    whole = tokens + len(top) + sum(np.count_nonzero(matrix) for matrix in matrices[1:])
    edges = _EDGES
    while True:
        tails, heads, sizes = [1 + nodes], [np.zeros_like(nodes)], [np.ones_like(fed)]
        for layer, matrix in enumerate(matrices[1:], start=1):
            above, below = np.nonzero(_largest(matrix, fed, edges))
            tails.append(1 + layer * tokens + above)
            heads.append(1 + (layer - 1) * tokens + below)
            sizes.append(matrix[above, below])
        tails.append(np.full(len(top), source))
        heads.append(1 + (layers - 1) * tokens + top)
        sizes.append(fed[top])
        parts = (np.concatenate(sizes), (np.concatenate(tails), np.concatenate(heads)))
        # Rows come in order: the sink's is empty, and each token above it has one edge, whose capacity the caller sets.
        yield csr_matrix(parts, shape=(source + 1, source + 1))
        if len(parts[0]) == whole:
            return
        edges *= 2


def _largest(matrix: Array, fed: Array, edges: int) -> Array:
    """Mark the largest capacities of each row and column, and all from tokens with a large part of the readout."""
    if edges >= len(fed):
        return matrix > 0
    kept = np.zeros(matrix.shape, dtype=bool)
    np.put_along_axis(kept, np.argpartition(-matrix, edges, axis=1)[:, :edges], True, axis=1)
    np.put_along_axis(kept, np.argpartition(-matrix, edges, axis=0)[:edges], True, axis=0)
    kept[fed.astype(np.int64) * edges > fed.sum(dtype=np.int64)] = True  # fewer than `edges` rows
    return kept & (matrix > 0)
