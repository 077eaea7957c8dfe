"""Count the pairs inside windows that contain all, 95% or 90% of a patch's relevant patches, as a function of α.

    python tests/benchmarks/window_coverage.py measure OUT.json MODEL IMAGES... [--checkpoint FILE] [--count N]
    python tests/benchmarks/window_coverage.py report OUT.json... [--figure FILE]

`measure` writes the fraction of all pairs per image, α and kind of window, after every image; IMAGES are files and
folders. `report` prints Markdown tables with 95% bootstrap intervals over images, and draws the curves. The kinds:

- box: the paper's bounding box;
- 0.95, 0.9: the smallest box with this fraction of the relevant patches (`coverage`);
- shuffled box, shuffled 0.9: the same with U shuffled within rows, so that relevant patches are anywhere in the image;
- mass 0.9: the smallest box with 90% of the sum of U of the relevant patches, the patch itself not counted;
- set: the relevant patches themselves and the patch, without a box;
- top columns: the fraction of the relevant pairs in the 5% of the columns (10 of 196) that hold most of them;
- box without top columns: the bounding box without these pairs;
- box with others instead: the bounding box if as many pairs of other columns are relevant instead (`exclude`);
- columns of largest mean, box without columns of largest mean: the same for the 5% with the largest mean U.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import vit_interactions as vi
from vit_interactions.compare.summary import bootstrap_intervals
from vit_interactions.figures import prepare
from vit_interactions.functional import (
    adaptive_windows,
    informativeness,
    relevant_pairs,
    smallest_boxes,
    window_operations,
)
from vit_interactions.functional.windows import covering_windows, with_self
from vit_interactions.images import read_image
from vit_interactions.images.listing import find_images
from vit_interactions.loading.models import load_model

ALPHAS = (0.02, 0.025, 0.05, 0.10, 0.20, 0.50, 1.0)
PAPER = {0.025: 4_971, 0.05: 6_801, 0.10: 8_866, 0.20: 10_283, 0.50: 38_334, 1.0: 38_416}  # Table 1, ViT-B/16
COLUMNS = 10 / 196  # fraction of the columns that count as the top
LEVELS = 2**19  # to which U is rounded, relative to the maximum of its row, for the mass
STYLES: dict[str, dict[str, Any]] = {
    "box": {"color": "#0072b2", "marker": "o", "label": "bounding box (paper)"},
    "0.95": {"color": "#009e73", "marker": "s", "label": "95% of the relevant patches"},
    "0.9": {"color": "#d55e00", "marker": "^", "label": "90% of the relevant patches"},
    "shuffled 0.9": {"color": "#d55e00", "linestyle": ":", "label": "90%, U shuffled within rows"},
    "set": {"color": "black", "linestyle": "--", "label": "the relevant patches themselves"},
}


def window_fractions(uncertainty: Tensor, grid: tuple[int, int], alpha: float) -> dict[str, float]:
    """Return the fraction of all pairs for each kind of window, for U (1, patches, patches) of one image."""
    patches = uncertainty.shape[-1]
    order = torch.rand(uncertainty.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    relevant, elsewhere = relevant_pairs(uncertainty, alpha), relevant_pairs(uncertainty.gather(-1, order), alpha)
    used, informative = most(relevant.sum(1)), most(informativeness(uncertainty))
    others = uncertainty.masked_fill(torch.eye(patches, dtype=torch.bool), 0.0)
    mass = (others / others.amax(-1, keepdim=True) * LEVELS).round().int() * relevant
    windows = {
        "box": covering_windows(relevant, grid, 1.0),
        "0.95": covering_windows(relevant, grid, 0.95),
        "0.9": covering_windows(relevant, grid, 0.9),
        "shuffled box": covering_windows(elsewhere, grid, 1.0),
        "shuffled 0.9": covering_windows(elsewhere, grid, 0.9),
        "mass 0.9": smallest_boxes(mass, grid, 0.9),
        "box without top columns": covering_windows(relevant & ~used.unsqueeze(1), grid, 1.0),
        "box with others instead": adaptive_windows(uncertainty, grid, alpha, exclude=used),
        "box without columns of largest mean": covering_windows(relevant & ~informative.unsqueeze(1), grid, 1.0),
    }
    pairs = relevant.sum().item()
    return {
        **{kind: window_operations(each).item() / patches**2 for kind, each in windows.items()},
        "set": with_self(relevant).double().mean().item(),
        "top columns": (relevant & used.unsqueeze(1)).sum().item() / pairs,
        "columns of largest mean": (relevant & informative.unsqueeze(1)).sum().item() / pairs,
    }


def most(score: Tensor) -> Tensor:
    """Mark the 5% of the columns with the highest score, (1, patches) bool."""
    chosen = score.topk(round(COLUMNS * score.shape[-1])).indices
    return torch.zeros(score.shape, dtype=torch.bool).scatter(1, chosen, True)


def measure(options: argparse.Namespace) -> None:
    """Write the fractions of every image to a JSON file."""
    paths = find_images(options.images)
    if options.count and options.count < len(paths):
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, options.count).round().astype(int)]
    model = load_model(options.model, options.checkpoint)
    explainer = vi.InteractionUncertainty(model)
    images: dict[str, Any] = {}
    for path in paths:
        inputs = prepare(read_image(path), model).input.unsqueeze(0)
        grid = vi.token_layout(model, (inputs.shape[-2], inputs.shape[-1])).grid
        uncertainty = explainer.uncertainty(inputs)
        found = [window_fractions(uncertainty, grid, alpha) for alpha in ALPHAS]
        images[path.name] = {kind: [each[kind] for each in found] for kind in found[0]}
        content = {"model": options.model, "grid": grid, "alphas": ALPHAS, "images": images}
        options.out.write_text(json.dumps(content))


def report(options: argparse.Namespace) -> None:
    """Print the tables, and draw the figure if asked."""
    runs = [json.loads(path.read_text()) for path in options.runs]
    for run in runs:
        kinds = list(next(iter(run["images"].values())))
        print(f"\n{run['model']}, {len(run['images'])} images, {run['grid'][0]} x {run['grid'][1]} patches\n")
        print("| α |" + "".join(f" {kind} |" for kind in kinds) + "\n| --- |" + " --- |" * len(kinds))
        cells = [intervals(run, kind) for kind in kinds]
        for number, alpha in enumerate(run["alphas"]):
            shown = (f"{mean[number]:.1%} ({low[number]:.1%}–{high[number]:.1%})" for mean, low, high in cells)
            print(f"| {alpha:g} | " + " | ".join(shown) + " |")
    if options.figure:
        draw(runs).savefig(options.figure, dpi=110)


def intervals(run: dict[str, Any], kind: str) -> Any:
    """Return the means over images and the ends of their intervals, (3, alphas)."""
    values = np.array([each[kind] for each in run["images"].values()])
    return np.stack((values.mean(0), *bootstrap_intervals(values)))


def draw(runs: list[dict[str, Any]]) -> Figure:
    """Draw one panel per model."""
    figure = Figure(figsize=(4.2 * len(runs), 4.4), layout="constrained")
    for panel, run in zip(figure.subplots(1, len(runs), sharey=True, squeeze=False)[0], runs, strict=True):
        for kind, style in STYLES.items():
            mean, low, high = intervals(run, kind)
            panel.plot(run["alphas"], mean, markersize=4, **style)
            panel.fill_between(run["alphas"], low, high, color=style["color"], alpha=0.2, linewidth=0)
        panel.plot(
            list(PAPER), [pairs / 196**2 for pairs in PAPER.values()], "x", color="gray", label="paper, ViT-B/16"
        )
        panel.set_xscale("log")
        panel.set_xticks(run["alphas"], [f"{alpha:g}" for alpha in run["alphas"]], fontsize=8, rotation=45)
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        panel.set_title(f"{run['model']}, {len(run['images'])} images", fontsize=9)
        panel.set_xlabel("α (fraction of all pairs that count as relevant)", fontsize=9)
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("pairs inside the windows, of all pairs", fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def main() -> None:
    """Measure or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("out", type=Path)
    measuring.add_argument("model")
    measuring.add_argument("images", type=Path, nargs="+")
    measuring.add_argument("--checkpoint", type=Path)
    measuring.add_argument("--count", type=int, help="images, evenly spaced in the list; default: all")
    measuring.set_defaults(call=measure)
    reporting = commands.add_parser("report")
    reporting.add_argument("runs", type=Path, nargs="+")
    reporting.add_argument("--figure", type=Path)
    reporting.set_defaults(call=report)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
