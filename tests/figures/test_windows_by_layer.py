"""The figure of WinfT's windows: positions and hand-counted sizes."""

import matplotlib
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import vit_interactions as vi
from tests.helpers.drawn import COLS, LAYOUT, PLACES, ROWS, N, centers, drawn, prepared
from tests.helpers.families import tiny
from vit_interactions import figures
from vit_interactions.explain.settings import Settings
from vit_interactions.figures.display import COLORS
from vit_interactions.gallery.explanation import explain_image

PATCH = (1, 2)


def masks(layers: int = 3) -> torch.Tensor:
    return torch.rand(layers, N, N, generator=torch.Generator().manual_seed(0)) > 0.6


@pytest.mark.parametrize(("size", "left", "top"), PLACES)
def test_patches_outside_the_window_are_dark(size: tuple[int, int], left: float, top: float) -> None:
    mask = masks()[0]
    _, color = drawn(lambda axes: figures.draw_window(axes, prepared(size), mask, LAYOUT, PATCH))
    row = mask[PATCH[0] * COLS + PATCH[1]].reshape(ROWS, COLS)
    assert 3 < row.sum() < N - 3
    for cell, place in centers(left, top).items():
        assert (color(*place) == (128 if row[cell] else 64)).all(), cell


def test_sum_over_layers_is_first_then_each_layer_with_its_sizes() -> None:
    windows = masks()
    figure = figures.windows_figure(prepared((480, 320)), windows, LAYOUT, PATCH, title="50 $ a 50 $")
    FigureCanvasAgg(figure).draw()
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title().split(":")[0] for axes in panels] == [
        "Sum over 3 blocks",
        "Block 1",
        "Block 2",
        "Block 3",
    ]
    p = PATCH[0] * COLS + PATCH[1]
    for axes, window in zip(panels[1:], windows, strict=True):
        heading, share = axes.get_title().split("\n")
        assert heading.endswith(f": {int(window[p].sum())} of {N} patches")
        pairs = sum(bool(window[i, j]) for i in range(N) for j in range(N))
        assert share == f"$E_O$ {pairs} ({round(100 * pairs / N**2)}%)"
    # More layers are brighter, on a scale from none to all layers.
    [bar] = panels[0].child_axes
    assert bar.get_ylim() == (0, 3)
    votes = windows[:, p].sum(0).reshape(ROWS, COLS)
    assert set(votes.flatten().tolist()) == {0, 1, 2, 3}
    expected = matplotlib.colormaps[COLORS](votes.numpy() / 3, bytes=True)[..., :3]
    assert (panels[0].images[-1].get_array()[..., :3] == expected).all()


def test_figure_from_a_record() -> None:
    model = tiny("winft_tiny_patch16_224", img_size=(48, 80))
    with torch.no_grad(), vi.record_windows(model) as record:
        model(torch.randn(2, 3, 48, 80))
    layout = vi.token_layout(model, (48, 80))
    figure = figures.windows_figure(prepared((480, 320)), torch.stack(record.masks)[:, 1], layout, (2, 4))
    operations = [axes.get_title().split()[-2] for axes in figure.axes if "Block" in axes.get_title()]
    assert sum(map(int, operations)) / 2 == record.operations[1]


def test_explain_draws_the_windows_that_the_model_predicts() -> None:
    model = tiny("winft_tiny_patch16_224", img_size=(48, 80))
    image = figures.prepare(Image.effect_noise((320, 192), 80).convert("RGB"), model)
    settings = Settings("winft", methods=("interaction_uncertainty",), patches=((2, 4),))
    found = explain_image(model, image, settings)
    assert "own_windows" in found.figures
    with torch.no_grad(), vi.record_windows(model) as record:
        model(image.input[None])
    assert (found.arrays["own_windows"] == torch.stack(record.masks)[:, 0].numpy()).all()
    shares = found.facts["own_window_fraction_by_layer"]
    assert sum(shares) / len(shares) == pytest.approx(float(record.operations[0]) / 15**2)


def test_mismatched_shapes_raise() -> None:
    with pytest.raises(ValueError, match=rf"`masks` must have shape \(2, {N}, {N}\), got \(2, 5, 5\)"):
        figures.windows_figure(prepared((480, 320)), torch.ones(2, 5, 5, dtype=torch.bool), LAYOUT, PATCH)
    with pytest.raises(ValueError, match="`patch`"):
        figures.windows_figure(prepared((480, 320)), masks(), LAYOUT, (ROWS, 0))
