"""Kill each resumable command at eight points, resume it, and compare with an uninterrupted run.

    python -m tests.benchmarks.crashes [--moments 8] [--command NAME ...]

A point is a call that changes the disk durably: `os.fsync`, `os.replace`, `os.rename` or `os.unlink`. The points are
spread evenly over all calls of a complete run. Prints one row per command: kills, and runs with identical results. The
exit code is 1 if any result differs.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.helpers import fuzz_trials as trials
from tests.helpers.fuzzed import Ended, Sandbox, run

CALLS = ("fsync", "replace", "rename", "unlink")


def counted_calls(run_command: Callable[[], Ended], kill_at: int | None = None) -> int:
    """Count the durable calls of a run in a child process, and kill it before one of them.

    Returns:
        The number of calls; -1 if it was killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counting(original: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                nonlocal count
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return original(*arguments, **options)

            return call

        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        code = run_command().code
        os.write(writer, str(count).encode())
        os._exit(0 if code == 0 else 1)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        counted = file.read()
    if os.WIFSIGNALED(status):
        return -1
    assert os.waitstatus_to_exitcode(status) == 0, "an uninterrupted run failed"
    return int(counted)


def crashes(sandbox: Sandbox, command: str, moments: int) -> list[bool]:
    """Return, for each point, whether the resumed run has the results of an uninterrupted run."""
    images = [sandbox.good, *sorted((sandbox.data / "train").glob("*/*.png"))]

    def arguments(out: Path) -> list[object]:
        if command in trials.IMAGE_COMMANDS:
            named = [sandbox.good.with_name(f"{number}.png") for number in range(len(images))]
            for path, image in zip(named, images, strict=True):
                path.write_bytes(image.read_bytes())
            return ["--resume", *trials.on_images(sandbox, command, named, out)]
        more = ["--epochs", "3", "--checkpoint-every", "1"] if command == "train" else ["--batch-size", "1"]
        return ["--resume", *trials.on_data(sandbox, command, sandbox.data, out, *more)]

    whole = sandbox.root / f"{command}-alone"

    def run_into(out: Path) -> Ended:
        return run(command, *arguments(out))

    calls = counted_calls(lambda: run_into(whole))
    wanted = trials.results(command, whole)
    same = []
    for number in range(moments):
        out = sandbox.root / f"{command}-killed-{number}"
        moment = number * calls // moments
        assert counted_calls(lambda out=out: run_into(out), moment) == -1  # type: ignore[misc]
        ended = run_into(out)
        wrong = differences(command, out, ended, wanted)
        if wrong:
            print(f"{command}, killed at call {moment} of {calls}: {wrong}", file=sys.stderr, flush=True)
        same.append(not wrong)
    return same


def differences(command: str, out: Path, ended: Ended, wanted: dict[str, object]) -> str:
    """Describe the differences from an uninterrupted run; empty if there are none."""
    if ended.code is None:
        return f"not finished after {ended.seconds:.0f} s"
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.text}"
    if left := [path.name for path in out.rglob(".*") if path.name.endswith((".partial", ".replaced", ".lock"))]:
        return f"left behind {left}"
    found = trials.results(command, out)
    return "\n".join(
        f"{name}: {found.get(name)!r:.2000}, wanted {wanted.get(name)!r:.2000}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=8)
    parser.add_argument("--command", nargs="*", default=["explain", "compare", "windows", "train"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as root:
        sandbox = Sandbox(Path(root).resolve())
        for command in given.command:
            found[command] = crashes(sandbox, command, given.moments)
    print("| command | kills | identical results after resuming |\n| --- | --- | --- |")
    for command, same in found.items():
        print(f"| `{command}` | {len(same)} | {sum(same)} |")
    sys.exit(not all(map(all, found.values())))


if __name__ == "__main__":
    main()
