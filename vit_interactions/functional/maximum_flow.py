"""Attention flow: the maximum flow from the output to each input token, with attention as capacities.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, Sec. 4.2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vit_interactions.utilities.arrays import Array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# SciPy's maximum flow requires integers, so capacities are in millionths.
_UNIT = 1_000_000


def attention_flow(capacities: Sequence[Tensor], readout: Tensor) -> Tensor:
    """Compute the maximum flow from the readout at the top to each token at the bottom, for one image.

    Node (l, i), l = 0..L, has an edge to (l-1, j) of capacity M_l[i, j]; a source feeds the top tokens by `readout`.

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

    layers, tokens = len(capacities), readout.shape[0]
    graph = _graph([matrix.double().cpu().numpy() for matrix in capacities], readout.double().cpu().numpy())
    source = (layers + 1) * tokens
    flows = [maximum_flow(graph, source, token).flow_value / _UNIT for token in range(tokens)]
    return torch.tensor(flows, dtype=torch.float64, device=readout.device)


def _graph(matrices: list[Array], readout: Array) -> "csr_matrix":
    """Build the graph with node (l, i) as l · tokens + i and the source last; omit edges of capacity 0."""
    from scipy.sparse import csr_matrix

    layers, tokens = len(matrices), len(readout)
    tails, heads, sizes = [], [], []
    for layer, matrix in enumerate(matrices, start=1):
        scaled = np.rint(matrix * _UNIT).astype(np.int32)
        above, below = np.nonzero(scaled)
        tails.append(layer * tokens + above)
        heads.append((layer - 1) * tokens + below)
        sizes.append(scaled[above, below])
    fed = np.rint(readout * _UNIT).astype(np.int32)
    (top,) = np.nonzero(fed)
    source = (layers + 1) * tokens
    tails.append(np.full(len(top), source))
    heads.append(layers * tokens + top)
    sizes.append(fed[top])
    edges = (np.concatenate(sizes), (np.concatenate(tails), np.concatenate(heads)))
    return csr_matrix(edges, shape=(source + 1, source + 1))
