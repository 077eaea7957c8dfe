"""Check that a thread that explains a model and another that runs it do not affect each other.

    python -m tests.benchmarks.threads [--explanations 200] [--calls 1000] [--method NAME ...]

Prints, per method and mode of the model, how many outputs and maps differ from those computed without another thread,
and the cost of the evaluation copy relative to a plain forward pass. The exit code is 1 if anything differs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import vit_interactions as vi
from tests.helpers.threaded import differences, lived_in
from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.isolation import evaluation_mode


def seconds(run: Callable[[], object]) -> float:
    """Measure CPU seconds of this thread, which depend less on other processes."""
    started = time.thread_time()
    run()
    return time.thread_time() - started


def costs(name: str, size: int, rounds: int = 30) -> dict[str, float]:
    """Return the median times of passes in both modes and of copying, relative to a plain pass."""
    model, inputs = timm.create_model(name), torch.rand(1, 3, size, size)

    def run_on_copy() -> None:
        with evaluation_mode(model) as own:
            own(inputs)

    runs: dict[str, tuple[bool, Callable[[], object]]] = {
        "plain": (False, lambda: model(inputs)),
        "forward pass, eval mode": (False, run_on_copy),
        "forward pass, training mode (on a copy)": (True, run_on_copy),
        "copying only": (True, lambda: evaluation_copy(model)),
    }
    taken: dict[str, list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for _ in range(rounds):
            for key, (training, run) in runs.items():
                nn.Module.train(model, training)
                taken[key].append(seconds(run))
    plain = statistics.median(taken["plain"])
    return {key: statistics.median(values) / plain for key, values in taken.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--explanations", type=int, default=200)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--method", nargs="*", default=list(vi.EXPLAINERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    different = 0
    print("| method | mode | model calls | different outputs | maps | different maps |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for method in options.method:
        for training in (False, True):
            model = lived_in(training=training)
            made, wrong, maps = differences(method, model, options.explanations, options.calls)
            different += wrong + maps
            mode = "train" if training else "eval"
            print(f"| `{method}` | {mode} | {made} | {wrong} | {options.explanations} | {maps} |", flush=True)
    for name, size in (("test_vit", 160), ("vit_tiny_patch16_224", 224)):
        print(name, {key: round(ratio, 2) for key, ratio in costs(name, size).items()})
    raise SystemExit(different > 0)


if __name__ == "__main__":
    main()
