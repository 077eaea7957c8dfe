"""Draw a contact sheet of a model: one row per image, one column per method, as `vit-interactions explain` draws maps.

    python tests/benchmarks/contact_sheets.py vit_tiny_patch16_224 ../shared/data/imagenet_samples sheet.jpg \
        --checkpoint ../shared/data/weights/vit_tiny_patch16_224.tiny_imagenet_200.safetensors --maps maps.npz

With `--maps`, raw maps are kept in a file, and maps that it has are not computed again: use it to draw the same maps
with two versions of the library. Class-specific methods explain the predicted class, or the largest output of a model
without classes. With `--columns`, the sheet has further rows for more methods than these, as in docs/display.md:

    python tests/benchmarks/contact_sheets.py vit_mini_patch8_112 bundled docs/images/maps_after_vit_mini.jpg \
        --count 2 --columns 8 --width 1600 --quality 75
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import nn

import vit_interactions as vi
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, Interactions, map_of_image
from vit_interactions.explain.registry import all_methods
from vit_interactions.figures import PreparedImage, draw_image, draw_map, prepare
from vit_interactions.figures.shown import rendered
from vit_interactions.images import read_image
from vit_interactions.images.bundled import bundled_images
from vit_interactions.loading.models import load_model

METHODS = (
    *("interaction_uncertainty", "responsive_field_size", "responsive_field_tendency", "indiscriminative_patches"),
    *("raw_attention", "attention_rollout", "gradient_rollout", "generic_attention", "transformer_attribution"),
    *("gmar", "dynamic_accumulated_attention", "legrad", "attention_guided_cam", "attention_grad_cam", "attn_lrp"),
    "input_x_gradient",
)
WIDTH, HEIGHT = 2.3, 1.5  # inches per tile
TITLE = 0.3
DPI = 100


def main() -> None:
    """Compute maps and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", help='a folder, or "bundled" for the sample images of scikit-image')
    parser.add_argument("out", type=Path, help=".jpg or .png")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--count", type=int, default=10, help="images, spread evenly over the folder")
    parser.add_argument("--maps", type=Path, help="file of raw maps (.npz), read and extended")
    parser.add_argument("--quality", type=int, default=85, help="of a JPEG")
    parser.add_argument("--columns", type=int, help="methods per row; default: all")
    parser.add_argument("--width", type=int, help="pixels to which a wider sheet is reduced")
    options = parser.parse_args()
    if options.images == "bundled":
        paths = bundled_images()[: options.count]
    else:
        paths = sorted(Path(options.images).glob("*.*"))
        paths = [paths[place * len(paths) // options.count] for place in range(min(options.count, len(paths)))]
    model = load_model(options.model, options.checkpoint)
    maps = dict(np.load(options.maps)) if options.maps and options.maps.exists() else {}
    columns = options.columns or len(options.methods)
    bands = [options.methods[start : start + columns] for start in range(0, len(options.methods), columns)]
    height = len(paths) * HEIGHT + TITLE  # of a band
    figure = Figure(figsize=((1 + columns) * WIDTH, len(bands) * height))
    grids = [
        part.subplots(len(paths), 1 + columns, squeeze=False)
        for part in figure.subfigures(len(bands), squeeze=False)[:, 0]
    ]
    for part, grid in zip(figure.subfigs, grids, strict=True):
        part.subplots_adjust(0.002, 0.01, 0.975, 1 - TITLE / height, 0.45, 0.06)
        for axes in grid.flat:
            axes.set_axis_off()
    for number, path in enumerate(paths):
        prepared = prepare(read_image(path), model)
        layout = vi.token_layout(model, tuple(prepared.input.shape[-2:]))
        found = _maps(model, prepared, path.name, options.methods, maps)
        if options.maps:
            np.savez(options.maps, **maps)
        for grid in grids:
            draw_image(grid[number, 0], prepared, layout)
        panels = [panel for grid in grids for panel in grid[number, 1:]]
        for panel, (name, values) in zip(panels, found.items(), strict=False):
            kind = all_methods()[name]
            norm = Normalize(1, layout.patches) if name == "responsive_field_size" else None
            more = kind.more_is_relevant
            draw_map(panel, prepared, torch.from_numpy(values), layout, more_is_relevant=more, norm=norm)
            for bar in panel.child_axes:
                bar.tick_params(labelsize=5, pad=1)
                bar.set_ylabel(bar.get_ylabel(), fontsize=4)
                bar.yaxis.get_offset_text().set_fontsize(5)
    for grid, names in zip(grids, bands, strict=True):
        for axes, name in zip(grid[0], ["image", *names], strict=False):
            axes.set_title(name.replace("_", " "), fontsize=8)
    sheet = rendered(figure, DPI)
    if options.width:
        sheet.thumbnail((options.width, sheet.height))
    sheet.save(options.out, **({"quality": options.quality} if options.out.suffix == ".jpg" else {}))
    print(f"{len(paths)} images x {len(options.methods)} methods in {options.out}")


def _maps(
    model: nn.Module, prepared: PreparedImage, image: str, methods: list[str], maps: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the map of each method for an image; those that are not in `maps` are computed and added."""
    inputs = prepared.input[None]
    found: Interactions | None = None
    for name in methods:
        if (key := f"{image}/{name}") in maps:
            continue
        started = time.perf_counter()
        explainer = all_methods()[name](model)
        if isinstance(explainer, InteractionExplainer) and found is None:
            found = explainer.interactions(inputs)
        maps[key] = map_of_image(explainer, inputs, "pred", found).numpy()
        print(f"{key}: {time.perf_counter() - started:.1f} s", flush=True)
    return {name: maps[f"{image}/{name}"] for name in methods}


if __name__ == "__main__":
    main()
