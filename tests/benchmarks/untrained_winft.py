"""Measure the accuracy of a trained ViT-Ti/16 whose weights are loaded into WinfT, without training.

python tests/benchmarks/untrained_winft.py WEIGHTS IMAGES CLASSES

IMAGES is a folder of files WNID_name.jpg, CLASSES a CSV with the columns index, wnid, name.
"""

import argparse
import csv
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

import vit_interactions as vi

MODELS = {
    "ViT": ("vit_tiny_patch16_224", {}),
    "WinfT": ("winft_tiny_patch16_224", {}),
    'WinfT, window_fill="-inf"': ("winft_tiny_patch16_224", {"window_fill": "-inf"}),
}
PREPARE = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("weights", "images", "classes"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    with given.classes.open() as file:
        classes = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    paths = sorted(given.images.glob("*.jpg"))
    pixels = torch.stack([PREPARE(Image.open(path).convert("RGB")) for path in paths])
    truth = torch.tensor([classes[path.name.split("_")[0]] for path in paths])
    for label, (name, options) in MODELS.items():
        model = timm.create_model(name, num_classes=len(classes), **options).eval()
        model.load_state_dict(load_file(given.weights))
        right, shares = 0, []
        for images, expected in zip(pixels.split(20), truth.split(20), strict=True):
            with torch.no_grad():
                if label == "ViT":
                    output = model(images)
                else:
                    with vi.record_windows(model) as record:
                        output = model(images)
                    shares.append(torch.stack([mask.float().mean((1, 2)) for mask in record.masks]))
            right += int((output.argmax(1) == expected).sum())
        print(f"{label}: top-1 {right / len(paths):.1%} of {len(paths)}")
        if shares:
            layers = torch.cat(shares, 1).mean(1)
            print(f"    E_O {layers.mean() * 196**2:,.0f} ({layers.mean():.0%}); by block", end=" ")
            print(*(f"{share:.2f}" for share in layers))


if __name__ == "__main__":
    main()
