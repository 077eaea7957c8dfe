"""Measure the cost of a training step relative to that of a plain ViT of the same shape.

    python tests/benchmarks/training_step.py

Prints a Markdown table of alternating runs in one process. A step is a forward pass, a backward pass and an optimizer
step on images already in memory. Student and teacher have the same shape. "Cached" starts from the bytes of a window
store, "online" runs the teacher. The cost of the store is that of computing it once, without reading images.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.task import ClassificationTask
from torch import nn

from vit_interactions.functional.responsive_field import field_from_windows
from vit_interactions.training.data.window_store import pack
from vit_interactions.training.task import WindowSupervisionTask
from vit_interactions.training.teacher import WindowTeacher

SETTINGS = {
    "Ti/16 at 224, batch 32": ("tiny_patch16_224", 32),
    "B/16 at 224, batch 8": ("base_patch16_224", 8),
}
PLAIN = "ViT"


class Steps:
    """Variants of a training step on one batch, each with its own student."""

    def __init__(self, shape: str, batch: int, device: str, amp: str) -> None:
        """Create the batch and the teacher."""
        torch.manual_seed(0)
        self.shape, self.device = shape, device
        self.images = torch.randn(batch, 3, 224, 224, device=device)
        self.classes = torch.arange(batch, device=device) % 10
        self.teacher = WindowTeacher(timm.create_model(f"vit_{shape}"), alpha=0.025).to(device)
        field = self.teacher(self.images)
        self.windows, self.dropped, self.grid = field.windows.to(torch.uint8), field.dropped, field.grid
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.context: Callable[[], Any] = (
            nullcontext if amp == "none" else lambda: torch.autocast(device.partition(":")[0], kinds[amp])
        )

    def student(self, kind: str, **options: Any) -> nn.Module:
        """Create a student."""
        model: nn.Module = timm.create_model(f"{kind}_{self.shape}", num_classes=10, **options)
        return model.to(self.device)

    def ways(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the name and the step of each variant."""
        loss, supervised = nn.CrossEntropyLoss(), WindowSupervisionTask
        yield PLAIN, self.step(ClassificationTask(self.student("vit"), loss, verbose=False))
        for fill in ("zero", "-inf"):
            task = ClassificationTask(self.student("winft", window_fill=fill), loss, verbose=False)
            yield f'WinfT, `window_fill="{fill}"`, no window loss', self.step(task)
        task = supervised(self.student("winft"), loss, verbose=False)
        yield "WinfT, cached windows", self.step(task, self.cached)
        task = supervised(self.student("winft"), loss, teacher=self.teacher, verbose=False)
        yield "WinfT, online windows", self.step(task)
        yield "computing and packing the windows for a store", self.store
        adaptive: Any = self.student("awd_vit")
        adaptive.set_teacher(self.teacher)
        yield (
            "AWD-ViT with DIP, including the teacher",
            self.step(ClassificationTask(adaptive, loss, verbose=False)),
        )

    def cached(self) -> dict[str, Any]:
        """Unpack the windows as a data loader returns them."""
        return {"windows": field_from_windows(self.windows.long(), self.dropped, self.grid).mask}

    def store(self) -> None:
        """Compute and pack the windows of the batch, as `build_window_store` does."""
        field = self.teacher(self.images)
        pack(field.windows, field.dropped)

    def step(self, task: ClassificationTask, windows: Callable[[], dict[str, Any]] = dict) -> Callable[[], None]:
        """Create the step of a task."""
        task.train()
        optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=1e-3, momentum=0.9)

        def run() -> None:
            with self.context():
                result = task(self.images, self.classes, **windows())
            result["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if self.device.startswith("cuda"):
                torch.cuda.synchronize()

        return run


def times(shape: str, batch: int, device: str, amp: str, rounds: int) -> dict[str, list[float]]:
    """Time each variant once per round, after one warm-up round."""
    steps = dict(Steps(shape, batch, device, amp).ways())
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for counted in range(-1, rounds):
        for way, run in steps.items():
            started = time.perf_counter()
            run()
            if counted >= 0:
                seconds[way].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))
    parser.add_argument("--setting", choices=SETTINGS, action="append")
    options = parser.parse_args()
    print("| setting | step | time / plain ViT: median (min-max) | plain ViT, s |")
    print("| --- | --- | --- | --- |")
    for setting in options.setting or SETTINGS:
        seconds = times(*SETTINGS[setting], options.device, options.amp, options.rounds)
        for way, mine in seconds.items():
            ratios = [one / plain for one, plain in zip(mine, seconds[PLAIN], strict=True)]
            spread = "" if way == PLAIN else f" ({min(ratios):.2f}-{max(ratios):.2f})"
            took = f"{statistics.median(mine):.3f}" if way == PLAIN else ""
            print(f"| {setting} | {way} | {statistics.median(ratios):.2f}{spread} | {took} |", flush=True)


if __name__ == "__main__":
    main()
