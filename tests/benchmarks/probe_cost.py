"""Cost of the probe, as ratios of times measured in turn in one process: `python -m tests.benchmarks.probe_cost`."""

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


def measure(name: str, side: int) -> tuple[float, float]:
    """Return the medians of probe / (forward + backward) and of a remembered probe / forward."""
    from vit_interactions.attention.probe import _probes

    model, image = timm.create_model(name).eval(), torch.rand(1, 3, side, side)

    def pass_with_gradient(model: nn.Module = model) -> None:
        leaf = image.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    def anew() -> None:
        _probes.clear()
        probing(model, image)

    def forward() -> None:
        with torch.no_grad():
            model(image)

    anew(), pass_with_gradient(), forward()
    first = [seconds(anew) / seconds(pass_with_gradient) for _ in range(ROUNDS)]
    again = [seconds(lambda: probing(model, image)) / seconds(forward) for _ in range(ROUNDS)]
    return statistics.median(first), statistics.median(again)


if __name__ == "__main__":
    print("| model, image side | probe / (forward + backward) | remembered probe / forward |\n| --- | --- | --- |")
    for label, arguments in MODELS.items():
        first, again = measure(*arguments)
        print(f"| {label} | {first:.2f}x | {100 * again:.1f}% |", flush=True)
