"""Which methods say the same of a photograph."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from vit_interactions.metrics.rank_correlation import average_ranks

if TYPE_CHECKING:
    import pandas as pd


def agreement(maps: Mapping[str, np.ndarray[Any, Any]]) -> "pd.DataFrame":
    """Compute Spearman's rank correlation between the maps of each two methods.

    Args:
        maps: method to (rows, cols), all of one shape and all more = more relevant.

    Returns:
        A symmetric table, methods × methods, in [-1, 1]; NaN, also on the diagonal, for a map that is constant or not
        finite and so has no ranks.

    Raises:
        ValueError: maps of different shapes.

    Example:
        >>> agreement({"one": np.array([[0, 1, 2]]), "other": np.array([[9, 5, 1]])}).loc["one", "other"]
        np.float64(-1.0)
    """
    import pandas as pd  # takes a second

    shapes = {name: values.shape for name, values in maps.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"`maps` must have one shape, but got {shapes}.")
    names = list(maps)
    table: np.ndarray[Any, np.dtype[np.float64]] = np.full((len(names), len(names)), np.nan)
    tensors = [torch.as_tensor(np.asarray(values, np.float64)) for values in maps.values()]
    usable = [index for index, values in enumerate(tensors) if values.isfinite().all()]
    if usable:
        ranks = torch.stack([average_ranks(tensors[index]) for index in usable])
        ranks -= ranks.mean(1, keepdim=True)
        products = ranks @ ranks.T
        squares = products.diagonal()
        table[np.ix_(usable, usable)] = products / (squares * squares[:, None]).sqrt()
    # The stubs of pandas know no type of a new table before Python 3.11.
    return cast(pd.DataFrame, pd.DataFrame(table, index=names, columns=names))
