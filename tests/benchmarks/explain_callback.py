"""Measure what it costs to explain images while a model is trained.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.explain_callback [--model NAME] [--batch 32] [--rounds 3]

Prints CPU seconds of a training step, and of one image's maps without and with drawing, as medians of alternating runs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import timm
import torch

import vit_interactions as vi
from vit_interactions.explain.settings import Settings
from vit_interactions.images.bundled import bundled_images
from vit_interactions.training.explain_callback import METHODS
from vit_interactions.training.snapshot import take_snapshot


def seconds(run: Callable[[], object]) -> float:
    """Measure CPU seconds of this process, which depend less on other processes."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = timm.create_model(options.model).train()
    size = timm.data.resolve_model_data_config(model)["input_size"]
    optimizer = torch.optim.AdamW(model.parameters())
    images, classes = torch.rand(options.batch, *size), torch.randint(model.num_classes, (options.batch,))

    def step() -> None:
        torch.nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()
        optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        callback = vi.ExplainCallback(bundled_images()[:1], [folder])
        runs: dict[str, Callable[[], object]] = {
            f"training step of {options.batch} images": step,
            f"maps of one image ({', '.join(METHODS)})": lambda: take_snapshot(
                model, images[:1], Settings("", methods=METHODS)
            ),
            "the same, drawn and written to a folder": lambda: callback(model, 0),
        }
        for run in runs.values():  # warm up
            run()
        taken = [{name: seconds(run) for name, run in runs.items()} for _ in range(options.rounds)]
    base = None
    for name in runs:
        median = statistics.median(each[name] for each in taken)
        base = base or median
        print(f"{name}: {median:.2f} s, {median / base:.2f} of a step")


if __name__ == "__main__":
    main()
