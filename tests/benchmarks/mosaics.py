"""Create mosaics of four images of four classes, whose object positions are known without annotated boxes.

    python tests/benchmarks/mosaics.py ../shared/data/imagenette160/val mosaics
    vit-interactions compare mosaics --boxes mosaics/boxes.csv --out comparison

For the grid pointing game (Böhle et al., CVPR 2021, arXiv 2104.00032): the map of a class should be in the quadrant
that shows it; the chance level is 25%. Only images that the model classifies correctly are used.
"""

import argparse
import csv
import random
from pathlib import Path

import torch
from PIL import Image

from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model
from vit_interactions.loading.predictions import predict
from vit_interactions.utilities.choices import DEFAULT_MODEL

SIDE = 160


def main() -> None:
    """Write the mosaics and their boxes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="one folder per class, in the order of the model's classes")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    model = load_model(options.model)
    numbers = random.Random(0)
    folders = sorted(path for path in options.images.iterdir() if path.is_dir())
    waiting = [numbers.sample(sorted(folder.iterdir()), k=len(list(folder.iterdir()))) for folder in folders]

    def next_of(kind: int) -> Image.Image:
        while True:
            image = read_image(waiting[kind].pop())
            with torch.no_grad():
                found = predict(model, prepare(image, model).input[None], named=False)
                if found is not None and found.index == kind:
                    return image

    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "index", "left", "top", "right", "bottom"])
        for number in range(options.count):
            kinds = numbers.sample(range(len(folders)), k=4)
            mosaic = Image.new("RGB", (2 * SIDE, 2 * SIDE))
            for place, kind in enumerate(kinds):
                corner = SIDE * (place % 2), SIDE * (place // 2)
                mosaic.paste(next_of(kind).resize((SIDE, SIDE), Image.Resampling.BICUBIC), corner)
            place = number % 4
            left, top = SIDE * (place % 2), SIDE * (place // 2)
            name = f"{number:04d}.png"
            mosaic.save(options.out / name)
            rows.writerow([name, kinds[place], left, top, left + SIDE, top + SIDE])


if __name__ == "__main__":
    main()
