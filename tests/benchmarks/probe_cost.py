"""Measure the cost of the probe as ratios of alternating run times: `python -m tests.benchmarks.probe_cost`."""

import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from vit_interactions.attention import probe as probing

MODELS = {
    "ViT-Ti/16, 224": ("vit_tiny_patch16_224", 224),
    "ViT-B/16, 224": ("vit_base_patch16_224", 224),
    "ViT-S/14, 518": ("vit_small_patch14_dinov2", 518),
}
ROUNDS = 5


def seconds(run: Callable[[], object]) -> float:
    """Time one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, side: int) -> tuple[float, float, float]:
    """Return the medians of probe / (forward + backward), to the parameters and to the image, and cached / forward."""
    from vit_interactions.attention.probe import _probes

    model, image = timm.create_model(name).eval(), torch.rand(1, 3, side, side)

    def pass_with_gradient(model: nn.Module = model) -> None:
        torch.autograd.grad(model(image).sum(), list(model.parameters()), allow_unused=True)

    def pass_to_the_image(model: nn.Module = model) -> None:
        leaf = image.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    def probe_again() -> None:
        _probes.clear()
        probing(model, image)

    def forward() -> None:
        with torch.no_grad():
            model(image)

    probe_again(), pass_with_gradient(), pass_to_the_image(), forward()
    first = [seconds(probe_again) / seconds(pass_with_gradient) for _ in range(ROUNDS)]
    image_only = [seconds(probe_again) / seconds(pass_to_the_image) for _ in range(ROUNDS)]
    again = [seconds(lambda: probing(model, image)) / seconds(forward) for _ in range(ROUNDS)]
    return statistics.median(first), statistics.median(image_only), statistics.median(again)


if __name__ == "__main__":
    print(
        "| model, image side | probe / (forward + backward) | same, to the image only | cached probe / forward |"
    )
    print("| --- | --- | --- | --- |")
    for label, arguments in MODELS.items():
        first, image_only, again = measure(*arguments)
        print(f"| {label} | {first:.2f}x | {image_only:.2f}x | {100 * again:.1f}% |", flush=True)
