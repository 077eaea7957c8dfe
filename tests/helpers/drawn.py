"""Draw a figure and read its colors at the positions of patches."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision import transforms

from vit_interactions import figures
from vit_interactions.attention import TokenLayout

ROWS, COLS = 4, 6
LAYOUT = TokenLayout(prefix=1, rows=ROWS, cols=COLS, readout="token", extent=(32, 48))
N = LAYOUT.patches


def prepared(size: tuple[int, int], gray: int = 128) -> figures.PreparedImage:
    """Prepare a plain image (width, height), resized to cover 32 x 48 pixels and center-cropped."""
    steps = [
        timm.data.transforms.ResizeKeepRatio((32, 48)),
        transforms.CenterCrop((32, 48)),
        transforms.ToTensor(),
    ]
    return figures.prepare(Image.new("RGB", size, (gray,) * 3), torch.nn.Identity(), transforms.Compose(steps))


def probe(axes: Axes) -> Callable[..., np.ndarray]:
    figure = axes.get_figure(root=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)

    def color(x: float, y: float) -> np.ndarray:
        across, up = axes.transData.transform((x, y))
        return pixels[pixels.shape[0] - 1 - int(up), int(across)]

    return color


def drawn(
    draw: Callable[[Axes], Any], size: tuple[float, float] = (5, 5)
) -> tuple[Axes, Callable[..., np.ndarray]]:
    """Draw on axes and return a function that reads the RGB color at (x, y) in pixels of the image."""
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    return axes, probe(axes)


# The crop of 32 x 48 at scale 10, computed by hand: centered in a portrait of 480 x 800 and a landscape of 1000 x 320.
PLACES = [((480, 800), 0, 240), ((1000, 320), 260, 0)]


def centers(left: float, top: float) -> dict[tuple[int, int], tuple[float, float]]:
    return {(r, c): (left + 80 * c + 40, top + 80 * r + 40) for r, c in product(range(ROWS), range(COLS))}


def uncertainty(seed: int = 0) -> Tensor:
    return torch.rand(N, N, generator=torch.Generator().manual_seed(seed)) ** 8
