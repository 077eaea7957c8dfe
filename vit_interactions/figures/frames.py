"""Frames of a map that builds up block by block, side by side or as an animation.

Source: Liao, Gao and Zhang, Dynamic Accumulated Attention Map, arXiv 2503.14640: the flow of attention through the
blocks, one frame a block.
"""

from os import PathLike
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.sheets import image_grid
from vit_interactions.figures.values import set_title
from vit_interactions.images.prepared import PreparedImage

COLUMNS = 6
MILLISECONDS = 500  # a frame; the last one stays three times as long


def frames_figure(prepared: PreparedImage, frames: Tensor, layout: TokenLayout, *, title: str = "") -> Figure:
    """Show the frames in reading order, one a block.

    Args:
        prepared: from `prepare`.
        frames: (layers, rows, cols) in [0, 1], from `display_frames`.
        layout: the model's, from `token_layout`.
        title: above the figure, taken literally.

    Raises:
        ValueError: frames of another shape than the layout's, or not finite.
    """
    check_frames(frames, layout)
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    figure, axes = image_grid(prepared, layout, rows, columns, title)
    for number, frame in enumerate(frames):
        panel = axes[number // columns][number % columns]
        draw_map(panel, prepared, frame, layout, label="of the frame's range", norm=Normalize(0, 1))
        set_title(panel, f"Block {number + 1}")
    return figure


def save_animation(
    path: str | PathLike[str], prepared: PreparedImage, frames: Tensor, layout: TokenLayout
) -> None:
    """Write the frames as an animated GIF, half a second a block.

    Args:
        path: of the file to write, ending in .gif.
        prepared: from `prepare`.
        frames: (layers, rows, cols) in [0, 1], from `display_frames`.
        layout: the model's, from `token_layout`.

    Raises:
        ValueError: a path of another ending, or frames of another shape than the layout's.
    """
    if not str(path).lower().endswith(".gif"):
        raise ValueError(f"`path` must end in .gif, but got {path}.")
    check_frames(frames, layout)
    images = []
    for number, frame in enumerate(frames):
        figure, [[axes]] = image_grid(prepared, layout, 1, 1, "")
        draw_map(axes, prepared, frame, layout, label="of the frame's range", norm=Normalize(0, 1))
        set_title(axes, f"Block {number + 1} of {len(frames)}")
        images.append(Image.fromarray(_rendered(figure)))
    durations = [MILLISECONDS] * (len(images) - 1) + [3 * MILLISECONDS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def check_frames(frames: Tensor, layout: TokenLayout) -> None:
    """Raise ValueError unless frames are (layers, rows, cols) of a layout."""
    if frames.ndim != 3 or tuple(frames.shape[1:]) != layout.grid or not len(frames):
        raise ValueError(
            f"`frames` must have shape (layers, {layout.rows}, {layout.cols}), but got {tuple(frames.shape)}."
        )


def _rendered(figure: Figure) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pixels
