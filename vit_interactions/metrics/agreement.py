"""Agreement: do two methods rank the patches of an image alike?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from vit_interactions.utilities.arrays import Array

if TYPE_CHECKING:
    import pandas as pd


def agreement(maps: Mapping[str, Array]) -> "pd.DataFrame":
    """Compute Spearman's rank correlation between the maps of every pair of methods.

    Args:
        maps: method -> (rows, cols), all of one shape; higher is more relevant in all.

    Returns:
        Symmetric table, methods x methods, in [-1, 1]. NaN, even on the diagonal, for maps without ranks: those that
        are constant or not finite.

    Raises:
        ValueError: maps of different shapes.

    Example:
        >>> agreement({"one": np.array([[0, 1, 2]]), "other": np.array([[9, 5, 1]])}).loc["one", "other"]
        np.float64(-1.0)
    """
    import pandas as pd  # takes a second

    shapes = {name: values.shape for name, values in maps.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"`maps` must have one shape, got {shapes}.")
    # pandas skips single NaNs; a map with any must have no ranks at all.
    columns = {name: values.ravel() if np.isfinite(values).all() else np.nan for name, values in maps.items()}
    size = next(iter(maps.values())).size if maps else 0
    # The stubs of pandas have no type for a new table before Python 3.11.
    return cast("pd.DataFrame", pd.DataFrame(columns, index=range(size), dtype=np.float64).corr("spearman"))
