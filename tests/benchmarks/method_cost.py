"""Measure the cost of every method relative to a forward pass, and to a forward and a backward pass.

    python tests/benchmarks/method_cost.py

Prints Markdown tables: the methods of this library, then captum's and pytorch-grad-cam's. Times come from alternating
runs in one process. Peak memory is that of one call beyond the loaded model, measured in a separate process. The
input is noise, and the weights are random, which does not affect the cost. "Backward" computes the gradient of one
class score with respect to the image.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import timm
import torch
from cost import peak, seconds_in_turn
from torch import Tensor, nn
from vit_interactions_adapters.methods import METHODS

import vit_interactions as vi

SETTINGS = {
    "ViT-B/16 at 224": ("vit_base_patch16_224", 224),
    "DINOv2-S/14 at 224": ("vit_small_patch14_dinov2", 224),
    "DINOv2-S/14 at 518": ("vit_small_patch14_dinov2", 518),
}
TARGET = 7


def forward(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run the model and nothing else."""
    return torch.no_grad()(model)


def forward_backward(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compute the gradient of a score with respect to the image."""

    def run(images: Tensor) -> Tensor:
        images = images.requires_grad_()
        return torch.autograd.grad(model(images)[:, TARGET].sum(), images)[0]

    return run


def method(name: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compute a method's map."""
    explainer = {**vi.EXPLAINERS, **METHODS}[name](model)
    return partial(explainer.patch_map, target=TARGET)


BASELINES = {"forward pass": forward, "forward and backward pass": forward_backward}


def build(way: str, name: str, size: int, batch: int, device: str) -> Callable[[], Tensor]:
    """Create the run of one method or baseline, with its own model."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size, num_classes=10).eval().to(device).requires_grad_(False)
    make = BASELINES.get(way) or partial(method, way)
    return partial(make(model), torch.randn(batch, 3, size, size, device=device))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="number of images")
    parser.add_argument("--setting", choices=SETTINGS, help="setting to measure")
    parser.add_argument("--methods", nargs="*", default=[*vi.EXPLAINERS, *METHODS])
    parser.add_argument("--without", nargs="*", default=[], help="methods to skip")
    parser.add_argument("--peak", nargs=2, metavar=("SETTING", "WAY"), help="print only one peak memory")
    options = parser.parse_args()
    if options.peak:
        setting, way = options.peak
        print(peak(build(way, *SETTINGS[setting], options.batch, options.device), options.device))
        return
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, {options.device}, {torch.get_num_threads()} threads"
    )
    ways = [way for way in options.methods if way not in options.without]
    for setting in [options.setting] if options.setting else SETTINGS:
        print(f"\n| {setting} | time / forward: median (min-max) | time / forward + backward | peak memory, GB |")
        print("| --- | --- | --- | --- |")
        for way in [*BASELINES, *ways]:
            # Alternating, so that a slow phase of the machine affects all three equally.
            runs = {
                name: build(name, *SETTINGS[setting], options.batch, options.device)
                for name in dict.fromkeys([*BASELINES, way])
            }
            seconds = seconds_in_turn(runs, options.device, options.rounds)
            ratios, against_both = (
                [mine / base for mine, base in zip(seconds[way], seconds[baseline], strict=True)]
                for baseline in BASELINES
            )
            shared = ["--device", options.device, "--batch", str(options.batch)]
            command = [sys.executable, __file__, *shared, "--peak", setting, way]
            memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"| `{way}` | {spread} | {statistics.median(against_both):.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
