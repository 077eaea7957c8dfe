"""Mark attention sinks on maps, so that their values are not mistaken for relevance or for its absence."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.canvas import HALO, patch_centers
from vit_interactions.images.prepared import PreparedImage

LEGEND = "x: attention sink"
SIZE = 3.5  # points


def mark_sinks(axes: Axes, prepared: PreparedImage, layout: TokenLayout, sinks: Tensor | None) -> None:
    """Draw a small x on each patch that is an attention sink, and a legend below the axes.

    Args:
        axes: axes with the image drawn on it.
        prepared: the image, from `prepare`.
        layout: token layout of the model.
        sinks: (patches,) bool, from `attention_sinks(...).patches` of one image; None for unknown. Without a sink,
            nothing is drawn.
    """
    if sinks is None or not sinks.any():
        return
    xs, ys = patch_centers(prepared, layout)
    rows, cols = np.nonzero(sinks.cpu().numpy().reshape(layout.grid))
    style: dict[str, Any] = {"marker": "x", "markersize": SIZE, "linestyle": "none", "zorder": 5, "clip_on": False}
    axes.plot(xs[cols], ys[rows], color="black", markeredgewidth=0.9, path_effects=[HALO], **style)
    axes.text(0.0, -0.02, LEGEND, fontsize=7, ha="left", va="top", transform=axes.transAxes)
