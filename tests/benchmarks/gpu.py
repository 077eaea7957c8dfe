"""Check and measure the library on a GPU, in less than ten minutes.

    python -m tests.benchmarks.gpu

Part one compares every method, WinfT, a training step and the fused kernel of U with the CPU in float64, in float32,
bfloat16 and float16 on the device, and prints failures without stopping. Part two measures U, rollout, gradient
methods, AttnLRP, WinfT and a training step as ratios to plain passes, alternating in one process, with peak memory and
the share of the device's peak.

Results are appended to `results.jsonl` in the output folder as they come, and `tables.md` there is written again after
every setting. The same command continues where it stopped. Each part has a share of the minutes; what does not fit is
listed as not measured, and measured by the next run. Exits with 1 if a check failed.

`--device cpu --quick` runs all of this in a minute with tiny models, as a test of the script.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch

import vit_interactions as vi
from tests.benchmarks.gpu_checks import LIMITS, checks
from tests.benchmarks.gpu_costs import PEAKS, Peak, attempt, measure_costs, stop_if_fatal
from tests.benchmarks.gpu_tables import tables
from vit_interactions.utilities.files import write_text

Record = dict[str, Any]
CHECKS_SHARE = 0.35  # of the minutes


class Journal:
    """Results in a JSON lines file, which a later run continues.

    Attributes:
        records: all results, the first of which describes the machine.
    """

    def __init__(self, path: Path, machine: Record) -> None:
        """Read the results of earlier runs on the same machine.

        Raises:
            ValueError: results of another machine, or of other versions.
        """
        self.path, self.records = path, []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                self.records.append(json.loads(line))
            except json.JSONDecodeError:
                break  # a run was killed while it wrote
        if not self.records:
            self.records.append(machine)
        if self.records[0] != machine:
            raise ValueError(
                f"`--out` must be a new folder, got one with results of {self.records[0]}. Delete {path.parent}, or "
                f"choose another folder for {machine}."
            )
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))

    def find(self, **key: Any) -> Record | None:
        """Return the result with these values, if there is one."""
        return next((record for record in self.records[1:] if key.items() <= record.items()), None)

    def add(self, **record: Any) -> None:
        """Append a result to the file."""
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def run_checks(journal: Journal, device: str, quick: bool, until: float) -> None:
    """Run the checks that have not run yet, until a time of `time.monotonic`."""
    for name, precision, check in checks(device, quick):
        if journal.find(part="check", name=name, precision=precision):
            continue
        if time.monotonic() > until:
            print("Checks stopped: no time left. Run the same command again to continue.")
            return
        started = time.monotonic()
        result = attempt(check)
        passed = result.get("passed", False)
        result["seconds"] = round(time.monotonic() - started, 2)
        journal.add(part="check", name=name, precision=precision, **result)
        if not passed:
            print(f"FAILED {name}, {precision}: {result}", flush=True)
        stop_if_fatal(result)


def check_table(records: list[Record]) -> str:
    """Return the Markdown table of all checks."""
    lines = [
        "| check | precision | largest relative difference | lowest rank correlation | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for record in records:
        if record.get("part") == "check":
            found = record.get("skipped") or ("" if record["passed"] else "FAILED")
            difference, agreement = (record.get(name) for name in ("difference", "agreement"))
            numbers = "|" if difference is None else f"{difference:.1e} | {agreement:.4f}"
            lines.append(f"| {record['name']} | {record['precision']} | {numbers} | {found} |")
    return "\n".join(lines)


def report(journal: Journal, peak: Peak) -> str:
    """Return all tables as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in journal.records[0].items())
    limits = "; ".join(f"{name}: {limit}" for name, limit in LIMITS.items())
    checked = (
        f"## Checks\n\nLimits of difference and rank correlation: {limits}.\n\n{check_table(journal.records)}"
    )
    return f"# {machine}\n\n{checked}\n\n{tables(journal.records, peak)}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run both parts, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models and images")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--peak-tflops", type=float, nargs=2, metavar=("FLOAT32", "BFLOAT16"))
    parser.add_argument("--peak-bandwidth", type=float, metavar="TERABYTES", help="per second")
    options = parser.parse_args(arguments)
    started, on_gpu = time.monotonic(), options.device.startswith("cuda")
    warnings.simplefilter("ignore", UserWarning)
    # The references are exact; convolutions would round to TF32 by default.
    torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(options.device) if on_gpu else options.device
    peak = next((peak for part, peak in PEAKS.items() if part in name), Peak({}, None))
    if options.peak_tflops:
        peak = peak._replace(tflops=dict(zip(("float32", "bfloat16"), options.peak_tflops, strict=True)))
    if options.peak_bandwidth:
        peak = peak._replace(bandwidth=options.peak_bandwidth)
    machine = {"device": name, "torch": torch.__version__, "timm": timm.__version__, "quick": options.quick}
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / "results.jsonl", machine)
    seconds = 60 * options.minutes

    def save() -> None:
        write_text(options.out / "tables.md", report(journal, peak))

    run_checks(journal, options.device, options.quick, started + CHECKS_SHARE * seconds)
    save()
    measure_costs(journal, options.device, options.quick, started + seconds, save)
    print(report(journal, peak))
    print(f"{time.monotonic() - started:.0f} s in all, vit_interactions from {Path(vi.__file__).parent}")
    failed = [r for r in journal.records if r.get("part") == "check" and not r.get("passed")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
