"""Measure pointing game, energy in box and run time of every method, including the random baseline.

    python tests/benchmarks/localization.py MODEL CHECKPOINT FOLDER

FOLDER contains `boxes.csv` (file, index, ..., left, top, right, bottom in pixels) and `images/`. The target class is
that of the column `index`.

- Pointing game: whether the center of the highest patch is in a box of the target class.
- Energy: the fraction of the map's sum (after subtracting its minimum) that is in the boxes.
- Time: the method's run time divided by that of a forward pass of the same image, median over images.

Maps in which lower is more relevant are negated.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from vit_interactions_adapters.methods import METHODS

import vit_interactions as vi
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.images.boxes import boxes_of_class, inside_boxes, read_boxes
from vit_interactions.loading.models import load_model

KINDS = {**vi.EXPLAINERS, **METHODS}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, help="use only the first images")
    parser.add_argument("--alpha", type=float, default=0.025, help="alpha of the responsive fields")
    parser.add_argument("--methods", nargs="*", default=list(KINDS), help="methods to measure")
    options = parser.parse_args()
    model = load_model(options.model, options.checkpoint)
    boxes = read_boxes(options.folder / "boxes.csv")
    names = list(boxes)[: options.images]
    results: dict[str, list[tuple[bool, float, float]]] = {method: [] for method in options.methods}
    sizes = []
    for name in names:
        prepared = prepare(read_image(options.folder / "images" / name), model)
        inputs, target = prepared.input.unsqueeze(0), boxes[name][0].index
        layout = vi.token_layout(model, (inputs.shape[-2], inputs.shape[-1]))
        inside = inside_boxes(prepared, layout, boxes_of_class(boxes[name], target)).flatten()
        sizes.append(inside.double().mean().item())
        for method in results:
            kind = KINDS[method]
            fields = (vi.ResponsiveFieldSize, vi.ResponsiveFieldTendency)
            explainer = kind(model, alpha=options.alpha) if kind in fields else kind(model)
            started = time.perf_counter()
            with torch.no_grad():
                model(inputs)
            forward = time.perf_counter() - started
            values = explainer.patch_map(inputs, target).flatten().double()
            ratio = (time.perf_counter() - started - forward) / forward
            values = values if kind.more_is_relevant else -values
            mass = values - values.min()
            energy = float(mass[inside].sum() / mass.sum()) if mass.sum() > 0 else 0.0
            results[method].append((bool(inside[values.argmax()]), energy, ratio))
    print(f"{len(names)} images; the boxes contain {statistics.mean(sizes):.0%} of the patches on average\n")
    print("| method | pointing game ± standard error | energy in box | time / forward pass |")
    print("| --- | --- | --- | --- |")
    for method, values in sorted(results.items(), key=lambda item: -statistics.mean(v[0] for v in item[1])):
        pointing, energy = (statistics.mean(v[i] for v in values) for i in (0, 1))
        ratio = statistics.median(v[2] for v in values)
        error = (pointing * (1 - pointing) / len(values)) ** 0.5
        print(f"| `{method}` | {pointing:.0%} ± {error:.0%} | {energy:.0%} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
