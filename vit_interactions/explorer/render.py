"""Render the explorer page: one self-contained HTML file whose policy allows only its own scripts."""

import base64
import hashlib
import io
import zlib
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from bokeh.embed import json_item
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from vit_interactions.explain.settings import OPEN_WINDOWS
from vit_interactions.explorer.data import PageData
from vit_interactions.explorer.features import STEPS
from vit_interactions.explorer.plots import image_plot, mosaic_plot
from vit_interactions.explorer.thresholds import SliderSteps, largest_error, slider_steps
from vit_interactions.figures.canvas import PATCH_COLOR, patch_centers
from vit_interactions.figures.display import CROWD, MARK, NOISE, log_limits, palette
from vit_interactions.figures.field import FIELD_COLOR, WINDOW_COLOR
from vit_interactions.figures.tendency import ARROW_COLOR
from vit_interactions.functional.indiscriminative import column_variance
from vit_interactions.images.placement import around_both
from vit_interactions.utilities.text import printable

LONGEST = 800  # pixels of the longer side of the image on the page
JPEG_QUALITY = 85
MANY = 400  # patches; lines are thinner above
WRAPPED = 6  # layers per line if only their means are shown
PANELS = {
    "interactions": "row of U of the chosen patch",
    "field": "window and responsive field of the chosen patch",
    "tendency": "tendency of all patches",
    "head": "attention of the chosen patch in one head",
    "similarity": "similarity of the chosen patch's features to all others",
    "pca": "principal components of the patches' features as colors",
}


def render(
    found: PageData, *, title: str, model: str, alpha: float, beta: float, coverage: float = 1.0, source: str = ""
) -> str:
    """Render the HTML page of one image.

    Args:
        found: from `page_data`.
        title: page title, any text.
        model: model name, any text.
        alpha: initial α.
        beta: initial β.
        coverage: fraction of a patch's relevant patches that its window contains at least; see `adaptive_windows`.
        source: identifies the image among others of the same name; "" for none.
    """
    sliders = slider_steps(found.uncertainty, alpha, beta, found.excluded)
    facts = page_facts(found, sliders, alpha, beta) | {"coverage": float(coverage)}
    bokeh, script = _bokeh(), _read("explorer.js")
    page = dict(
        title=printable(title),
        model=printable(model),
        source=source,
        prediction="" if found.prediction is None else printable(str(found.prediction)),
        **_tiles(found, facts),
        precision=f"{100 * max(largest_error(found.uncertainty, sliders.steps, sliders.values), 1e-4):.1g}%",
        colors={"patch": PATCH_COLOR, "window": WINDOW_COLOR, "field": FIELD_COLOR, "arrow": ARROW_COLOR},
        policy=_policy(script, bokeh),
        image=_data_uri(found.prepared.image),
        facts=facts,
        blocks={name: pack(data) for name, data in {"bokeh": bokeh.encode(), **_arrays(found, sliders)}.items()},
        style=Markup(_read("explorer.css")),
        script=Markup(script),
        version=version("vit_interactions"),
        bokeh_version=version("bokeh"),
    )
    template = _environment().get_template("page.html.jinja")
    return template.render(**page, megabytes=len(template.render(**page, megabytes=0.0).encode()) / 1e6)


def page_facts(found: PageData, sliders: SliderSteps, alpha: float, beta: float) -> dict[str, Any]:
    """Return the numbers and names that the page's script needs, without arrays."""
    facts = {**_place(found), **_sliders(found, sliders, alpha, beta), **_shown_attention(found)}
    facts |= _shown_features(found)
    facts |= {"many": MANY, "mark": MARK, "crowd": CROWD, "noise": NOISE, "open": OPEN_WINDOWS}
    facts |= {"palette": palette().tolist(), "diverging": palette(diverging=True).tolist()}
    needs = {"head": facts["layers"], "similarity": facts["feature_layers"], "pca": facts["feature_layers"]}
    facts["panels"] = [name for name in PANELS if needs.get(name, True)]
    facts["plots"] = _plots(found, facts)
    return facts


def _place(found: PageData) -> dict[str, Any]:
    """Return where the patches are, and the initially selected one: the largest sum of U to others."""
    return {
        "grid": found.layout.grid,
        "size": found.prepared.image.size,
        "extent": found.prepared.box_of_extent(found.layout.extent),
        "prefix": found.layout.prefix,
        "patch": int((found.uncertainty.sum(1) - found.uncertainty.diagonal()).argmax()),
    }


def _sliders(found: PageData, sliders: SliderSteps, alpha: float, beta: float) -> dict[str, Any]:
    """Return the steps of the sliders, their initial positions, and what is relevant or dropped at each step."""
    return {
        "alphas": sliders.alphas,
        "alpha_step": sliders.alphas.index(float(alpha)),
        "betas": sliders.betas,
        "beta_step": sliders.betas.index(float(beta)),
        "drop_counts": [_drops(found, share) for share in sliders.betas],
        "values": [None if np.isnan(value) else float(value) for value in sliders.values],
    }


def _drops(found: PageData, beta: float) -> int:
    """Return the number of patches that β drops; excluded patches are not among them."""
    most = found.layout.patches - (0 if found.excluded is None else int(found.excluded.sum()))
    return min(round(beta * found.layout.patches), most)


def _shown_attention(found: PageData) -> dict[str, Any]:
    """Return the arrangement of the attention tiles: one column per layer with its heads, or lines of layer means."""
    layers, heads = found.attention.values.shape[:2]
    columns = layers if heads > 1 else min(layers, WRAPPED)
    return {
        "form": found.attention.form,
        "layers": layers,
        "heads": heads,
        "layer": layers // 2,
        "columns": columns,
        "lines": heads if heads > 1 else -(-layers // columns) if layers else 0,
        "levels": found.attention.levels,
    }


def _shown_features(found: PageData) -> dict[str, Any]:
    """Return the layers whose features are on the page, and the variance that their components explain."""
    if found.features is None:
        return {"feature_layers": [], "explained": [], "similarity_steps": STEPS}
    explained = found.features.explained.round(4).tolist()
    return {"feature_layers": found.features.layers, "explained": explained, "similarity_steps": STEPS}


def _tiles(found: PageData, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers in the page's text: the grid, and the names of the lines and columns of tiles."""
    layers, heads = facts["layers"], facts["heads"]
    return {
        "rows": found.layout.rows,
        "cols": found.layout.cols,
        "patches": found.layout.patches,
        "form": facts["form"],
        "column_names": range(layers) if heads > 1 else [],
        "line_names": range(heads) if heads > 1 else _line_names(layers, facts["columns"]) if layers else [],
        "all_heads": found.attention.all_heads,
        "levels": facts["levels"],
        "sinks": int(found.sinks.sum()),
        "excluded": found.exclude_sinks,
        "feature_layers": facts["feature_layers"],
        "has_features": found.features is not None,
    }


def _arrays(found: PageData, sliders: SliderSteps) -> dict[str, bytes]:
    """Return the arrays that the page's script reads, by element id."""
    variance = column_variance(found.uncertainty[None])[0]
    if found.excluded is not None:
        variance = variance.masked_fill(found.excluded, torch.inf)  # ranked last, and never dropped
    order = variance.argsort(stable=True).argsort()
    arrays: dict[str, NDArray[Any]] = {
        "pairs": sliders.steps,
        "order": order.cpu().numpy().astype(np.uint16),
        "limits": row_limits(sliders),
        "attention": found.attention.packed(),
        "peaks": found.attention.peaks,
        "ends": found.attention.ends,
        "insides": found.attention.inside,
    }
    if found.features is not None:
        arrays |= {"similarity": found.features.packed(), "tints": found.features.colors}
        arrays["similarity_ends"] = found.features.ends()
    return {name: array.tobytes() for name, array in arrays.items()}


def row_limits(sliders: SliderSteps) -> NDArray[np.float64]:
    """Return (patches, 2): the ends of the log scale of each row of U, from the values that the page shows.

    The patch itself is excluded, because it would dominate its row. NaN if no other value is positive.
    """
    shown = sliders.values[sliders.steps]
    if len(shown) > 1:
        np.fill_diagonal(shown, np.nan)
    return np.stack(log_limits(shown), -1)


def pack(data: bytes) -> str:
    """Compress bytes to text that a browser can unpack.

    Example:
        >>> zlib.decompress(base64.b64decode(pack(b"patches")))
        b'patches'
    """
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _plots(found: PageData, facts: dict[str, Any]) -> dict[str, Any]:
    """Create the page's figures as Bokeh JSON, by element id."""
    left, top, right, bottom = facts["extent"]
    limits = around_both(facts["size"], facts["extent"])
    layout = found.layout
    cell = min((right - left) / layout.cols, (bottom - top) / layout.rows)
    xs, ys = (centers.tolist() for centers in patch_centers(found.prepared, layout))
    sinks = [(xs[col], ys[row]) for row, col in found.sinks.reshape(layout.grid).nonzero().tolist()]
    plots = {
        f"plot-{name}": image_plot(name, limits, PANELS[name], cell, fine=layout.patches > MANY, sinks=sinks)
        for name in facts["panels"]
    }
    if facts["layers"]:
        aspect = (right - left) / (bottom - top)
        plots["plot-mosaic"] = mosaic_plot(facts["columns"], facts["lines"], aspect)
    return {place: json_item(plot) for place, plot in plots.items()}


def _line_names(layers: int, columns: int) -> list[str]:
    """Return the names of the lines of tiles, by the layers in them.

    Example:
        >>> _line_names(5, 2)
        ['0-1', '2-3', '4']
    """
    lines = [range(start, min(start + columns, layers)) for start in range(0, layers, columns)]
    return [f"{line[0]}-{line[-1]}" if len(line) > 1 else f"{line[0]}" for line in lines]


def _data_uri(image: Image.Image) -> str:
    """Encode the image, resized, as a data URI."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((LONGEST, LONGEST))
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _policy(*scripts: str) -> str:
    """Return a content security policy that allows the page's own scripts, styles and images, and no connections."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _bokeh() -> str:
    """Return the source of BokehJS, without its optional components."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    loader = PackageLoader("vit_interactions.explorer", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    # Bokeh defines an object at its first reference, so the order of keys matters.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment
