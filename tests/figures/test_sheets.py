"""Whole figures: all parts, nothing cut off, and errors that name the argument."""

import matplotlib
import numpy as np
import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import vit_interactions as vi
from tests.helpers.drawn import COLS, LAYOUT, ROWS, N, centers, prepared, probe, uncertainty
from vit_interactions import figures


def whole_figures(size: tuple[int, int], title: str = "") -> dict[str, Figure]:
    u, ready = uncertainty(), prepared(size)
    field = vi.responsive_field(u[None], LAYOUT.grid, alpha=0.05)
    curve = vi.InteractionCurve((0.5, 1.0), torch.tensor([[5, 9], [7, 9]]), 9)
    return {
        "interaction": figures.interaction_figure(ready, u, field, LAYOUT, title=title),
        "field": figures.field_figure(ready, field, LAYOUT, title=title),
        "indiscriminative": figures.indiscriminative_figure(ready, u, LAYOUT, title=title),
        "map": figures.map_figure(ready, u[0].reshape(LAYOUT.grid), LAYOUT, title=title),
        "curve": figures.curve_figure(curve, title=title),
    }


@pytest.mark.parametrize("size", [(480, 800), (1000, 320)], ids=["portrait", "landscape"])
def test_nothing_is_cut_off_and_titles_are_literal(size):
    title = "bill_$100_$\\frac{" + "x" * 300 + "\n\udce9.jpg"
    for name, figure in whole_figures(size, title).items():
        figure.set_dpi(50)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert box.x0 > -0.05, name
        assert box.y0 > -0.05, name
        assert box.x1 < width + 0.05, name
        assert box.y1 < height + 0.05, name
        assert figure.get_suptitle().replace("\n", "").startswith("bill_$100_$\\frac{xxx")
        assert not figure._suptitle.get_parse_math()
    assert matplotlib._pylab_helpers.Gcf.figs == {}


def test_figures_contain_each_part():
    made = whole_figures((480, 320))
    interaction = made["interaction"].axes
    patches = figures.choose_patches(uncertainty(), LAYOUT)
    titles = [axes.get_title() for axes in interaction]
    assert [title for title in titles if title.startswith("Patch")] == [
        f"Patch {i}, row {r}, col {c}" for i, (r, c) in enumerate(patches, 1)
    ]
    sizes = vi.responsive_field(uncertainty()[None], LAYOUT.grid, alpha=0.05).size[0]
    assert [title for title in titles if title.startswith("Field")] == [
        f"Field: {sizes[r * COLS + c]} of {N} patches" for r, c in patches
    ]
    names = [text.get_text() for text in interaction[0].texts if "discriminative" not in text.get_text()]
    assert names == [" 1 ", " 2 ", " 3 ", " 4 "]
    assert [axes.get_title() for axes in made["indiscriminative"].axes if "dropped" in axes.get_title()] == [
        "β = 0.07: 2 of 24 dropped",
        "β = 0.2: 5 of 24 dropped",
        "β = 0.5: 12 of 24 dropped",
    ]


def test_rows_of_u_share_one_color_scale():
    u = torch.full((N, N), 1e-7)
    u[0, 5], u[N - 1, 5], u[7, 7] = 1e-2, 1e-4, 1e3  # the last one is not in any panel
    field = vi.responsive_field(u[None], LAYOUT.grid)
    figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, [(0, 0), (3, 5)])
    first, second = (axes for axes in figure.axes if axes.get_title().startswith("Patch"))
    for axes in (first, second):
        np.testing.assert_allclose(axes.child_axes[0].get_ylim(), (1e-7, 1e-2))
    at = centers(0, 0)[0, 5]
    assert probe(first)(*at).sum() > probe(second)(*at).sum() + 100


def test_default_choice_of_patches_is_stated():
    u = uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid)
    for patches, said in ((None, 1), ([(0, 0)], 0)):
        figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, patches)
        captions = [text for text in figure.axes[0].texts if "most discriminative ones" in text.get_text()]
        assert len(captions) == said
    figure = figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT)
    FigureCanvasAgg(figure).draw()
    [caption] = [text for text in figure.axes[0].texts if "last, the least discriminative one" in text.get_text()]
    box = caption.get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize("chosen", [0.1, 0.2, 0.0])
def test_chosen_beta_is_marked_in_its_panel(chosen):
    ready, u = prepared((480, 320)), uncertainty()
    figure = figures.indiscriminative_figure(ready, u, LAYOUT, chosen=chosen)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("β")]
    betas = sorted({0.07, 0.2, 0.5, chosen})
    assert [title.split()[2].rstrip(":") for title in titles] == [f"{beta:g}" for beta in betas]
    [marked] = [title for title in titles if "(chosen)" in title]
    assert marked == f"β = {chosen:g} (chosen): {round(chosen * N)} of {N} dropped"
    with pytest.raises(ValueError, match=r"`betas` .*\[0, 1\], got 7"):
        figures.indiscriminative_figure(ready, u, LAYOUT, chosen=7)


def test_many_patches_get_one_panel_each():
    u = uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid, alpha=0.05)
    patches = [(row, 2) for row in range(4)] + [(0, 0)]
    figure = figures.interaction_figure(prepared((480, 800)), u, field, LAYOUT, patches)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title().startswith("Patch")]
    assert titles == [f"Patch {i}, row {r}, col {c}" for i, (r, c) in enumerate(patches, 1)]


def test_tensors_of_any_dtype_with_gradients_are_accepted():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        u = uncertainty().to(dtype).requires_grad_()
        field = vi.responsive_field(u.detach()[None].float(), LAYOUT.grid)
        assert figures.interaction_figure(prepared((480, 320)), u, field, LAYOUT, [(0, 0)]).axes
        assert figures.indiscriminative_figure(prepared((480, 320)), u, LAYOUT, (0.5,)).axes
        assert u.grad is None


def test_errors_name_argument_expected_and_got():
    ready, u = prepared((480, 320)), uncertainty()
    field = vi.responsive_field(u[None], LAYOUT.grid)
    with pytest.raises(ValueError, match=r"`patch_map` must have shape \(4, 6\), got \(1, 4, 6\)"):
        figures.map_figure(ready, torch.zeros(1, ROWS, COLS), LAYOUT)
    with pytest.raises(ValueError, match="`patch_map` must be finite, got 1 NaN or infinite values"):
        figures.map_figure(
            ready, torch.zeros(ROWS, COLS).index_put((torch.tensor(0),) * 2, torch.tensor(torch.nan)), LAYOUT
        )
    with pytest.raises(ValueError, match=r"`uncertainty` must have shape \(24, 24\), got \(1, 24, 24\)"):
        figures.interaction_figure(ready, u[None], field, LAYOUT, [(0, 0)])
    with pytest.raises(ValueError, match=r"row in \[0, 3\], col in \[0, 5\], got \(4, 0\)"):
        figures.interaction_figure(ready, u, field, LAYOUT, [(4, 0)])
    with pytest.raises(ValueError, match="`patches` must contain at least one"):
        figures.interaction_figure(ready, u, field, LAYOUT, [])
    with pytest.raises(ValueError, match=r"`field` must have the grid \(4, 6\) of `layout`, got \(6, 4\)"):
        figures.field_figure(ready, vi.responsive_field(u[None], (6, 4)), LAYOUT)
    with pytest.raises(ValueError, match=r"`betas` .*\[0, 1\], got 7"):
        figures.indiscriminative_figure(ready, u, LAYOUT, (7,))


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")  # attention Grad-CAM may be zero everywhere
def test_figures_from_model_and_image():
    model = timm.create_model("test_vit").eval()
    ready = figures.prepare(Image.effect_noise((300, 200), 80), model)
    inputs = ready.input.unsqueeze(0)
    layout = vi.token_layout(model, (160, 160))
    u = vi.InteractionUncertainty(model).uncertainty(inputs)
    field = vi.responsive_field(u, layout.grid)
    assert len(figures.interaction_figure(ready, u[0], field, layout).axes) > 4
    assert len(figures.field_figure(ready, field, layout).axes) >= 4
    for method in vi.EXPLAINERS.values():
        patch_map = method(model).patch_map(inputs, "pred" if method.class_specific else None)[0]
        shown = figures.map_figure(ready, patch_map, layout, more_is_relevant=method.more_is_relevant)
        assert len(shown.axes) >= 2
