"""Check whether object patches have smaller responsive fields than background patches, as the paper observes.

    python tests/benchmarks/object_fields.py MODEL CHECKPOINT FOLDER

FOLDER contains `boxes.csv` (file, ..., left, top, right, bottom in pixels) and `images/`. For every image and α, the
mean field size of the patches whose center is in the box is divided by that of the other patches. The last column is
the baseline: the same with the box of another image.
"""

import argparse
import csv
from pathlib import Path

import torch
from torch import Tensor

import vit_interactions as vi
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model

ALPHAS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.10)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    model = load_model(options.model, options.checkpoint)
    explainer = vi.InteractionUncertainty(model)
    insides, uncertainties = [], []
    with (options.folder / "boxes.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        prepared = prepare(read_image(options.folder / "images" / row["file"]), model)
        inputs = prepared.input.unsqueeze(0)
        layout = vi.token_layout(model, tuple(inputs.shape[-2:]))
        left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
        boxes = [prepared.patch_box(r, c, layout) for r in range(layout.rows) for c in range(layout.cols)]
        centers = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes]
        insides.append(torch.tensor([left <= x <= right and top <= y <= bottom for x, y in centers]))
        uncertainties.append(explainer.uncertainty(inputs))
    # Boxes of an image are adjacent in the list, so a box half the list away belongs to another image.
    shuffled_boxes = insides[len(rows) // 2 :] + insides[: len(rows) // 2]
    print(f"{len(rows)} boxes\n")
    print(
        "| α | pairs inside the windows | median size inside / outside | boxes with smaller fields inside |"
        " same, with boxes of other images |"
    )
    print("| --- | --- | --- | --- | --- |")
    for alpha in ALPHAS:
        fields = [vi.responsive_field(u, layout.grid, alpha, 0.2) for u in uncertainties]
        opened = torch.cat([vi.responsive_field(u, layout.grid, alpha, 0.0).operations for u in uncertainties])
        true = ratios([field.size[0] for field in fields], insides)
        shuffled = ratios([field.size[0] for field in fields], shuffled_boxes)
        share = opened.double().mean() / layout.patches**2
        print(
            f"| {alpha:g} | {share:.0%} | {true.median():.2f} | {(true < 1).double().mean():.0%} |"
            f" {(shuffled < 1).double().mean():.0%} |"
        )


def ratios(sizes: list[Tensor], insides: list[Tensor]) -> Tensor:
    """Divide the mean size inside each box by that outside, skipping boxes with no patch on one side."""
    pairs = [(s.double(), i) for s, i in zip(sizes, insides, strict=True) if i.any() and not i.all()]
    return torch.stack([size[inside].mean() / size[~inside].mean() for size, inside in pairs])


if __name__ == "__main__":
    main()
