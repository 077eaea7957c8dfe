"""Measure the cost of a window store: time relative to a forward pass of the teacher, and bytes per image.

    python tests/benchmarks/window_store.py

Prints a Markdown table of alternating runs. All steps use the same images (JPEG, 500 x 375, smooth noise), so the
ratios do not depend on the number of images.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_dataset
from torch import nn

from vit_interactions.training.data.build_store import build_window_store, transform_options
from vit_interactions.training.data.window_store import read_manifest
from vit_interactions.training.teacher import WindowTeacher

MODELS = ("vit_tiny_patch16_224", "vit_base_patch16_224")


def make_images(folder: Path, count: int) -> None:
    """Write smooth noise as JPEG files in one class folder."""
    numbers = np.random.default_rng(0)
    (folder / "train" / "a").mkdir(parents=True)
    for index in range(count):
        coarse = Image.fromarray(numbers.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / "train" / "a" / f"{index:04d}.jpg")


def ways(model: nn.Module, dataset: object, out: Path, batch: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the steps to measure, each over all images."""
    teacher = WindowTeacher(model).to(device)
    transform = timm.data.create_transform(**transform_options(teacher))
    images = torch.stack([transform(dataset[i][0]) for i in range(len(dataset))]).to(device)  # type: ignore
    plain = torch.no_grad()(teacher.model)

    def build() -> None:
        shutil.rmtree(out, ignore_errors=True)
        for _ in build_window_store(dataset, teacher, out, batch_size=batch, workers=0):
            pass

    return {
        "plain forward, images in memory": lambda: [plain(part) for part in images.split(batch)],
        "the teacher's fields, images in memory": lambda: [teacher(part) for part in images.split(batch)],
        "reading and resizing": lambda: [transform(dataset[i][0]) for i in range(len(dataset))],  # type: ignore
        "the whole store, including reading": build,
    }


def times(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Time each step once per round, after one warm-up round."""
    seconds: dict[str, list[float]] = {way: [] for way in runs}
    for counted in range(-1, rounds):
        for way, run in runs.items():
            started = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if counted >= 0:
                seconds[way].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, {options.device}, {torch.get_num_threads()} threads, "
        f"{options.images} images, batch {options.batch}"
    )
    print("\n| teacher | step | time / plain forward: median (min-max) | bytes per image |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), options.images)
        dataset = create_dataset("", root=folder, split="train")
        out = Path(folder) / "store"
        for name in MODELS:
            torch.manual_seed(0)
            runs = ways(timm.create_model(name, num_classes=0), dataset, out, options.batch, options.device)
            seconds = times(runs, options.rounds, options.device)
            baseline = next(iter(seconds.values()))
            for way, values in seconds.items():
                ratios = [mine / plain for mine, plain in zip(values, baseline, strict=True)]
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                size = read_manifest(out).record_bytes if "store" in way else ""
                print(f"| {name} | {way} | {spread} | {size} |", flush=True)


if __name__ == "__main__":
    main()
