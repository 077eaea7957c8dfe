"""Show a map that builds up block by block, as a grid of frames or as an animation.

Source: Liao, Gao and Zhang, Dynamic Accumulated Attention Map, arXiv 2503.14640: the flow of attention through the
blocks, one frame per block.
"""

from io import BytesIO
from os import PathLike

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vit_interactions.attention import TokenLayout
from vit_interactions.figures.overlay import draw_map
from vit_interactions.figures.sheets import image_grid, image_panels
from vit_interactions.figures.values import set_title, to_array
from vit_interactions.images.prepared import PreparedImage

COLUMNS = 6
MILLISECONDS = 500  # per frame; the last one is shown three times as long


def frames_figure(prepared: PreparedImage, frames: Tensor, layout: TokenLayout, *, title: str = "") -> Figure:
    """Show the frames in reading order, one per block.

    Args:
        prepared: the image, from `prepare`.
        frames: (layers, rows, cols) in [0, 1], from `display_frames`.
        layout: token layout of the model, from `token_layout`.
        title: figure title, not parsed as math text.

    Raises:
        ValueError: frames do not have the shape of the layout, or are not finite.
    """
    to_array("frames", frames, (max(len(frames), 1), *layout.grid))
    figure, panels = image_panels(prepared, layout, len(frames), COLUMNS, title)
    for number, (axes, frame) in enumerate(zip(panels, frames, strict=False), 1):
        _draw_frame(axes, prepared, frame, layout, f"Block {number}")
    return figure


def save_animation(
    path: str | PathLike[str], prepared: PreparedImage, frames: Tensor, layout: TokenLayout
) -> None:
    """Write the frames as an animated GIF, half a second per block.

    Args:
        path: file to write, ending in .gif.
        prepared: the image, from `prepare`.
        frames: (layers, rows, cols) in [0, 1], from `display_frames`.
        layout: token layout of the model, from `token_layout`.

    Raises:
        ValueError: the path does not end in .gif, or frames do not have the shape of the layout.
    """
    if not str(path).lower().endswith(".gif"):
        raise ValueError(f"`path` must end in .gif, got {path}.")
    to_array("frames", frames, (max(len(frames), 1), *layout.grid))
    images = []
    for number, frame in enumerate(frames):
        figure, [[axes]] = image_grid(prepared, layout, 1, 1, "")
        _draw_frame(axes, prepared, frame, layout, f"Block {number + 1} of {len(frames)}")
        figure.savefig(png := BytesIO())
        images.append(Image.open(png).convert("RGB"))
    durations = [MILLISECONDS] * (len(images) - 1) + [3 * MILLISECONDS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def _draw_frame(axes: Axes, prepared: PreparedImage, frame: Tensor, layout: TokenLayout, title: str) -> None:
    draw_map(axes, prepared, frame, layout, label="relative to the frame's range", norm=Normalize(0, 1))
    set_title(axes, title)
