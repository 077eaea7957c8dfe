"""Pairs of patches, column variances and dropped patches."""

from itertools import product

import numpy as np
import torch

from tests.helpers.drawn import COLS, LAYOUT, PLACES, ROWS, N, centers, drawn, prepared, uncertainty
from vit_interactions import figures


def test_dropped_patches_are_visible_on_a_black_image():
    dropped = torch.zeros(ROWS, COLS, dtype=torch.bool)
    dropped[1, 1:3] = dropped[0, 5] = True
    _, color = drawn(lambda axes: figures.draw_dropped(axes, prepared((480, 320), gray=0), dropped, LAYOUT))
    for x in (80, 160, 240):  # three light edges for two patches
        assert max(color(x + dx, 120).min() for dx in (-1, 0, 1)) > 60, x
    for x, y in ((400, 40), (480, 40), (440, 0), (440, 80)):  # including the edge of the model input
        near = [color(x + d, y + e) for d, e in product((-2, -1, 0, 1, 2), repeat=2)]
        assert max(pixel.min() for pixel in near) > 60, (x, y)
    for x in (40, 120, 200, 280, 320):
        assert color(x, 120).max() == 0, x


def test_dropped_patches_and_no_others_are_black():
    dropped = torch.rand(ROWS, COLS, generator=torch.Generator().manual_seed(1)) < 0.4
    for size, left, top in PLACES:
        _, color = drawn(lambda axes, size=size: figures.draw_dropped(axes, prepared(size), dropped, LAYOUT))
        for patch, (x, y) in centers(left, top).items():
            for dx, dy in product((-32, 0, 32), (-32, 0, 32)):
                assert (color(x + dx, y + dy) == (0 if dropped[patch] else 128)).all()


def test_pairs_and_column_variances():
    u = uncertainty()
    axes, _ = drawn(lambda axes: figures.draw_pairs(axes, u))
    np.testing.assert_allclose(axes.images[0].get_array(), u.double())
    assert axes.images[0].origin == "upper"
    axes, _ = drawn(lambda axes: figures.draw_column_variances(axes, u, (0.25, 0.5)))
    variances = [u[:, i].double().var(correction=0).item() for i in range(N)]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), sorted(variances))
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [6.5, 12.5]
    left_out = u.masked_fill(torch.arange(N) == 3, 0.0)
    exclude = (torch.arange(N) == 3)[None]
    assert drawn(lambda axes: figures.draw_column_variances(axes, left_out))[0].get_yscale() == "linear"
    others, _ = drawn(lambda axes: figures.draw_column_variances(axes, left_out, exclude=exclude))
    assert others.get_yscale() == "log"
    np.testing.assert_allclose(others.lines[0].get_ydata(), sorted(variances[:3] + variances[4:]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "β = 0.25: 6 dropped",
        "β = 0.5: 12 dropped",
    ]
