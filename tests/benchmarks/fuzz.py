"""Run every command with hostile inputs, and print how the runs ended.

    python -m tests.benchmarks.fuzz [--seed 0] [--count 100] [--command NAME ...]

Prints one row per command: hostile inputs, runs, rejected runs (exit code 2) and accepted runs (exit code 0 or 1, with
the results of the valid inputs). The other columns must be 0: tracebacks, hangs, silent wrong results, other problems.
Problems are printed to standard error; the exit code is 1 if there are any.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.helpers import fuzz_trials as trials
from tests.helpers.fuzzed import Sandbox, Trial

COLUMNS = ("inputs", "runs", "rejected", "accepted", "tracebacks", "hangs", "silent", "other")


COMMANDS = (*trials.IMAGE_COMMANDS, *trials.DATA_COMMANDS, trials.STUDY, "models", "methods")


def everything(sandbox: Sandbox, command: str, seed: int, count: int) -> Iterator[Trial]:
    """Yield the trials of a command: images, names, files, options, and edited results to resume."""

    def draws(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, number])

    if command not in ("models", "methods"):
        yield from trials.image_trials(sandbox, command, draws(0), count)
        yield from trials.checkpoint_trials(sandbox, command, draws(1), count // 4)
    if command in trials.IMAGE_COMMANDS:
        yield from trials.name_trials(sandbox, command, draws(2), count // 4)
    if command in ("explain", "compare", "windows", "train", trials.STUDY):
        yield from trials.edit_trials(sandbox, command, draws(3), count)
    if command == "compare":
        yield from trials.table_trials(sandbox, draws(4), count // 4)
        yield from trials.mask_trials(sandbox, draws(5), count // 4)
    if command == "evaluate":
        yield from trials.class_map_trials(sandbox, draws(6), count)
    yield from trials.option_trials(sandbox, command, draws(7), count)


def counted(trial: Trial) -> dict[str, int]:
    """Count one run for the columns of the table."""
    code = None if trial.ended is None else trial.ended.code
    of = {"tracebacks": "traceback", "hangs": "hang", "silent": "silent"}
    found = {column: sum(each.startswith(word) for each in trial.problems) for column, word in of.items()}
    row = {"inputs": len(trial.inputs), "runs": 1, "rejected": code == 2, "accepted": code in (0, 1), **found}
    return row | {"other": len(trial.problems) - sum(found.values())}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100, help="random inputs per kind")
    parser.add_argument("--command", nargs="*", choices=COMMANDS, default=COMMANDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["COLUMNS"] = "200"
    print(f"| command | {' | '.join(COLUMNS)} |")
    print(f"| --- |{' --- |' * len(COLUMNS)}", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        sandbox = Sandbox(Path(root).resolve())
        os.environ["PATH"] = f"{root}/bin{os.pathsep}{os.environ['PATH']}"
        os.chdir(sandbox.folder("here"))
        for command in given.command:
            row = dict.fromkeys(COLUMNS, 0)
            for trial in everything(sandbox, command, given.seed, given.count):
                row = {column: row[column] + number for column, number in counted(trial).items()}
                for problem in trial.problems:
                    print(f"{command} {list(trial.inputs)!a}: {problem}", file=sys.stderr, flush=True)
            print(f"| `{command}` | {' | '.join(f'{row[column]:,}' for column in COLUMNS)} |", flush=True)
            wrong += sum(row[column] for column in COLUMNS[4:])
        os.chdir("/")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
