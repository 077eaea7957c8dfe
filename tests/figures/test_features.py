"""Figures of features: similarity of chosen patches, and principal components as colors."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor

from tests.helpers.drawn import COLS, LAYOUT, ROWS, N, centers, prepared, probe
from vit_interactions import figures
from vit_interactions.functional.similarity import cosine_similarity


def similarity() -> Tensor:
    return cosine_similarity(torch.randn(1, N, 4, generator=torch.Generator().manual_seed(0)))[0]


def test_chosen_patches_are_drawn_in_order_and_on_one_scale() -> None:
    figure = figures.similarity_figure(
        prepared((480, 320)), similarity(), LAYOUT, [(1, 2), (0, 0)], title="cat $x$"
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["Patch 1, row 1, col 2", "Patch 2, row 0, col 0"]
    assert figure.get_suptitle() == "cat $x$"
    bars = [child for axes in figure.axes for child in axes.child_axes]
    assert [bar.get_ylabel() for bar in bars] == ["cosine similarity"] * 2
    assert len({bar.get_ylim() for bar in bars}) == 1
    rows = similarity()[[COLS + 2, 0]]
    assert bars[0].get_ylim()[1] == pytest.approx(max(rows.max().item(), -rows.min().item()))


def test_patches_are_chosen_if_none_are_given() -> None:
    figure = figures.similarity_figure(prepared((480, 320)), similarity(), LAYOUT)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    chosen = figures.choose_patches(similarity(), LAYOUT)
    assert titles == [f"Patch {i}, row {r}, col {c}" for i, (r, c) in enumerate(chosen, 1)]


def test_colors_lie_on_their_patches() -> None:
    colors = torch.rand(ROWS, COLS, 3, generator=torch.Generator().manual_seed(1))
    explained = torch.tensor([0.61, 0.2, 0.1])
    figure = figures.pca_figure(prepared((480, 320)), colors, LAYOUT, explained, title="features")
    assert figure.get_suptitle().replace("\n", " ") == "features. Variance explained: red 61%, green 20%, blue 10%"
    FigureCanvasAgg(figure).draw()
    color = probe(figure.axes[1])
    left, top, *_ = prepared((480, 320)).box_of_extent(LAYOUT.extent)
    for (row, col), place in centers(left, top).items():
        assert np.allclose(color(*place), colors[row, col] * 255, atol=2)


def test_wrong_arguments_raise() -> None:
    ready = prepared((480, 320))
    with pytest.raises(ValueError, match=r"`similarity` must have shape"):
        figures.similarity_figure(ready, similarity()[:3], LAYOUT)
    with pytest.raises(ValueError, match=r"`patches` must contain at least one"):
        figures.similarity_figure(ready, similarity(), LAYOUT, [])
    with pytest.raises(ValueError, match=r"`patch` must lie in the grid"):
        figures.similarity_figure(ready, similarity(), LAYOUT, [(ROWS, 0)])
    with pytest.raises(ValueError, match=r"`colors` must have shape"):
        figures.pca_figure(ready, torch.zeros(2, 2, 3), LAYOUT, torch.zeros(3))
