"""Field sizes, and the directions of arrows and flow colors."""

from functools import partial
from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import flow_to_image

from tests.helpers.drawn import COLS, LAYOUT, ROWS, N, centers, drawn, prepared, probe
from vit_interactions import figures
from vit_interactions.attention import TokenLayout
from vit_interactions.figures.tendency import ARROW_COLOR


def test_field_sizes_share_one_integer_scale():
    seen = []
    for others in (N, N - 1):
        size = torch.full((ROWS, COLS), others)
        size[0, 0] = N - 1
        figure = partial(figures.draw_field_size, prepared=prepared((480, 320)), size=size, layout=LAYOUT)
        axes, color = drawn(figure)
        [bar] = axes.child_axes
        assert bar.get_ylim() == (N, 1)
        assert all(tick == round(tick) for tick in bar.get_yticks())
        assert bar.get_ylabel() == "patches in the field\n(lower is more relevant,\nas in the paper)"
        seen.append([color(*center) for center in centers(0, 0).values()])
    assert (seen[0][0] == seen[1][0]).all()
    assert np.abs(seen[0][0] - seen[0][1]).max() < 20  # sizes that differ by one have similar colors


@pytest.mark.parametrize("vector", [(1, 0), (-1, 0), (0, 1), (0, -1)], ids=["right", "left", "down", "up"])
def test_arrow_directions_on_the_image(vector):
    one = TokenLayout(prefix=1, rows=1, cols=1, readout="token", extent=(32, 32))
    ready = figures.PreparedImage(
        Image.new("RGB", (100, 100)), torch.zeros(3, 32, 32), figures.Placement(32, 32, 0, 0, 3, 3)
    )
    tendency = torch.tensor(vector, dtype=torch.float32).reshape(1, 1, 2)
    _, color = drawn(lambda axes: figures.draw_tendency_arrows(axes, ready, tendency, one))
    yellow = np.array(matplotlib.colors.to_rgb(ARROW_COLOR)) * 255
    y, x = np.mgrid[2:96:2, 2:96:2]
    mask = np.array(
        [
            [np.abs(color(a, b) - yellow).max() < 40 for a, b in zip(*row, strict=True)]
            for row in zip(x, y, strict=True)
        ]
    )
    # The head is wider than the shaft, so most of the arrow lies on the side that it points to.
    lean = np.array([(x[mask] - 48).mean(), (y[mask] - 48).mean()])
    assert mask.sum() > 20
    assert lean @ vector > 1
    assert abs(lean @ vector[::-1]) < 0.3
    span = (x if vector[0] else y)[mask]
    assert 0.7 * 96 < span.max() - span.min() < 0.85 * 96


def test_patches_without_a_direction_get_a_dot():
    tendency = torch.zeros(ROWS, COLS, 2)
    tendency[0, 0, 0] = 1.0
    axes, _ = drawn(lambda axes: figures.draw_tendency_arrows(axes, prepared((480, 320)), tendency, LAYOUT))
    dots, arrows = (c for c in axes.collections)
    assert len(dots.get_offsets()) == N - 1
    assert arrows.get_offsets().tolist() == [[40, 40]]


def test_flow_colors_match_torchvision_and_the_wheel():
    angles = torch.linspace(0, 6, N).reshape(ROWS, COLS)
    tendency = torch.stack((angles.cos(), angles.sin()), -1)
    tendency[2, 3] = 0.0
    axes, color = drawn(lambda axes: figures.draw_tendency_flow(axes, prepared((480, 320)), tendency, LAYOUT))
    expected = flow_to_image(tendency.permute(2, 0, 1))
    for (row, col), center in centers(0, 0).items():
        assert color(*center).tolist() == expected[:, row, col].tolist()
    [wheel] = axes.child_axes
    wheel_color = probe(wheel)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        alone = flow_to_image(torch.tensor([x, y], dtype=torch.float32).reshape(2, 1, 1)).flatten()
        np.testing.assert_allclose(wheel_color(0.93 * x, 0.93 * y), alone, atol=60)
    words = {text.get_text(): text.get_position() for text in wheel.texts}
    assert words["down"][1] > 1
    assert words["up"][1] < -1
    assert words["right"][0] > 1
    assert words["left"][0] < -1
    assert words["white:\nno tendency"][1] > words["down"][1]
    assert (color(*centers(0, 0)[2, 3]) == 255).all()
    boxes = [text.get_window_extent() for text in wheel.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert wheel.yaxis_inverted()
