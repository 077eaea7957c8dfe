"""Windows, boundaries and candidates of a responsive field."""

from itertools import product

import matplotlib
import numpy as np
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Rectangle

import vit_interactions as vi
from tests.helpers.drawn import COLS, LAYOUT, N, centers, drawn, prepared
from vit_interactions import figures
from vit_interactions.figures.field import FIELD_COLOR, WINDOW_COLOR


def test_a_row_of_u_is_drawn_for_its_patch():
    u = torch.full((N, N), 1e-9)
    u[LAYOUT.cols * 1 + 4, LAYOUT.cols * 3 + 2] = 1e-3
    patch = (1, 4)
    axes, color = drawn(lambda axes: figures.draw_interactions(axes, prepared((480, 320)), u, LAYOUT, patch))
    brightness = {place: color(*center).sum() for place, center in centers(0, 0).items()}
    assert max(brightness, key=brightness.get) == (3, 2)
    marked = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_xy() == (320, 80)]
    assert [(p.get_width(), p.get_height()) for p in marked] == [(80, 80)]


def hand_made_field() -> vi.ResponsiveField:
    """Build a field: patch (1, 1) has a window from (0, 1) to (2, 3); (1, 2) and the last patch are dropped."""
    p = 1 * COLS + 1
    u = torch.zeros(1, N, N)
    u[0, p, 0 * COLS + 2] = u[0, p, 2 * COLS + 3] = 1.0
    field = vi.responsive_field(u, LAYOUT.grid, alpha=2 / N**2, beta=0.0)
    field.dropped[0, 1 * COLS + 2] = True
    field.mask[0, :, 1 * COLS + 2] = False
    field.dropped[0, N - 1] = True  # outside the window
    return field


def test_window_boundary_candidates_and_dropped_patches_are_drawn():
    axes, color = drawn(
        lambda axes: figures.draw_field(axes, prepared((480, 320)), hand_made_field(), LAYOUT, (1, 1))
    )
    to_hex = matplotlib.colors.to_hex
    [window] = [p for p in axes.patches if to_hex(p.get_edgecolor()) == WINDOW_COLOR]
    assert window.get_bbox().extents.tolist() == [64, -16, 336, 256]  # around the field's line
    assert not window.get_clip_on()
    [boundary] = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert to_hex(boundary.get_color()[0]) == FIELD_COLOR
    lengths = [np.abs(np.diff(segment, axis=0)).sum() for segment in boundary.get_segments()]
    assert sum(lengths) == 2 * (240 + 240)  # around the window, but not around the hole
    ends = np.concatenate(boundary.get_segments())
    assert (ends.min(0).tolist(), ends.max(0).tolist()) == ([80, 0], [320, 240])
    yellow, cyan = (np.array(matplotlib.colors.to_rgb(c)) * 255 for c in (FIELD_COLOR, WINDOW_COLOR))
    beside = [color(x, 240) for x in np.linspace(90, 310, 40)]
    assert all(np.abs(pixel - yellow).max() < 60 for pixel in beside)
    assert 10 < sum(np.abs(color(x, 256) - cyan).max() < 60 for x in np.linspace(90, 310, 40)) < 38  # dashed
    rim = [color(160 + 80 * u, y) for u in np.linspace(0.1, 0.9, 9) for y in (80, 160)]
    assert not any(np.abs(pixel - yellow).max() < 60 for pixel in rim)
    [hatched] = [c for c in axes.collections if type(c) is PolyCollection]
    [hole] = hatched.get_paths()
    assert hole.get_extents().extents.tolist() == [160, 80, 240, 160]
    [dots] = [c for c in axes.collections if len(c.get_offsets()) > 1]
    assert sorted(map(tuple, dots.get_offsets().tolist())) == [(200, 40), (280, 200)]
    inside = {(r, c) for r, c in product(range(3), range(1, 4))} - {(1, 2)}
    for patch, (x, y) in centers(0, 0).items():
        light = (color(x + 25, y + 25) == 128).all()  # next to dots and names
        assert light == (patch in inside), patch


def test_field_of_candidates_only_is_outlined_per_patch():
    u = torch.zeros(1, N, N)
    u[0, 0, 2 * COLS + 3] = 1.0
    field = vi.responsive_field(u, LAYOUT.grid, alpha=1 / N**2, beta=0.0, field="candidates")
    axes, _ = drawn(lambda axes: figures.draw_field(axes, prepared((480, 320)), field, LAYOUT, (0, 0)))
    [boundary] = [c for c in axes.collections if isinstance(c, LineCollection)]
    middles = {tuple(np.mean(segment, axis=0)) for segment in boundary.get_segments()}
    around = {
        (x + dx, y + dy) for x, y in ((40, 40), (280, 200)) for dx, dy in ((40, 0), (-40, 0), (0, 40), (0, -40))
    }
    assert middles == around
