"""The script that checks and measures on a GPU, on the CPU with tiny models: `tests/benchmarks/gpu.py --quick`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import gpu, gpu_checks, gpu_costs
from tests.helpers.explaining import ROWS, images, small_vit
from vit_interactions.explain.zero_map import ZeroMapWarning

pytestmark = pytest.mark.filterwarnings(f"ignore::{ZeroMapWarning.__module__}.{ZeroMapWarning.__name__}")
MACHINE = {"device": "cpu"}


@pytest.fixture(autouse=True)
def _settings_are_restored() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


def quick_run(folder: Path, *options: str) -> int:
    """Run the script on the CPU."""
    return gpu.main(["--device", "cpu", "--quick", "--out", str(folder), *options])


def results(folder: Path) -> list[gpu.Record]:
    """Read the results of a run."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_quick_run_checks_and_measures_and_a_second_one_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [row for row in ROWS if row.name in ("interaction_uncertainty", "generic_attention", "random_map")]
    monkeypatch.setattr(gpu_checks, "ROWS", chosen)
    monkeypatch.setattr(gpu_costs, "ROUNDS", 1)
    assert quick_run(tmp_path, "--peak-tflops", "1e-6", "1e-6", "--peak-bandwidth", "1") == 0
    found = results(tmp_path)
    checks = [(record["name"], record["precision"]) for record in found if record.get("part") == "check"]
    assert len(set(checks)) == len(checks)
    # Random maps are compared in float32 only.
    assert len(checks) == 3 + 2 + 2 + 3 * (2 + 2)
    costs = [record for record in found if record.get("part") == "cost"]
    assert len(costs) == 2 * 2 * len(gpu_costs.BASELINE)  # two types, two batches
    assert {record["way"] for record in costs if "skipped" in record} == {gpu_costs.FUSED}
    assert all(record["ratio"][0] > 0 for record in costs if "skipped" not in record)
    tables = (tmp_path / "tables.md").read_text()
    assert tables in capsys.readouterr().out
    assert "| attn_lrp | forward + backward | " in tables
    assert "queries are on cpu" in tables
    assert "%" in tables
    assert quick_run(tmp_path) == 0
    assert results(tmp_path) == found


def test_no_time_is_left_for_a_later_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick_run(tmp_path, "--minutes", "0") == 0
    assert len(results(tmp_path)) == 1
    assert "Run the same command again" in capsys.readouterr().out


def test_a_failed_check_is_printed_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_checks, "ROWS", [row for row in ROWS if row.name in ("raw_attention", "gmar")])
    monkeypatch.setattr(gpu, "measure_costs", lambda *_: None)
    monkeypatch.setitem(gpu_checks.LIMITS, "float16", (1e-9, 0.0))
    assert quick_run(tmp_path) == 1
    failed = [(r["name"], r["precision"]) for r in results(tmp_path)[1:] if not r["passed"]]
    assert failed == [(name, "float16") for name in ("raw_attention", "gmar", "WinfT forward", "training step")]
    assert "FAILED raw_attention, float16" in capsys.readouterr().out


def test_what_runs_out_of_memory_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def runs(_setting: gpu_costs.Setting, _device: str) -> Iterator[tuple[str, Callable[[], object]]]:
        def too_large() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        for way in gpu_costs.BASELINE:
            yield way, too_large if way == "attn_lrp" else torch.ones(1).sum

    monkeypatch.setattr(gpu_costs, "explaining", runs)
    journal = gpu.Journal(tmp_path / "results.jsonl", MACHINE)
    measurement = gpu_costs.Measurement(journal, gpu_costs.settings(quick=True)[0], "cpu")
    measurement.run(gpu_costs.explaining, 60)
    assert measurement.find("attn_lrp")["skipped"] == "out of memory"
    assert measurement.find("gmar")["ratio"][0] > 0
    assert not measurement.find(gpu_costs.STEP)


def test_a_device_that_stops_working_ends_the_run() -> None:
    def fail() -> gpu.Record:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    found = gpu_costs.attempt(fail)
    assert found["skipped"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    with pytest.raises(SystemExit, match="Run the same command again"):
        gpu_costs.stop_if_fatal(found)
    gpu_costs.stop_if_fatal({"skipped": "out of memory"})


def test_a_line_that_was_cut_off_is_dropped_and_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = gpu.Journal(path, MACHINE)
    journal.add(part="check", name="a", passed=True)
    with path.open("a") as file:
        file.write('{"part": "che')
    journal = gpu.Journal(path, MACHINE)
    journal.add(part="check", name="b", passed=True)
    assert gpu.Journal(path, MACHINE).find(part="check", name="b")
    assert gpu.Journal(path, MACHINE).find(name="c") is None
    assert len(results(tmp_path)) == 3
    with pytest.raises(ValueError, match="`--out` must be a new folder"):
        gpu.Journal(path, {"device": "NVIDIA H200"})


def test_maps_are_compared_by_difference_and_rank() -> None:
    expected = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert gpu_checks.compared(expected, expected, "float32") == {"difference": 0, "agreement": 1, "passed": True}
    doubled = gpu_checks.compared(2 * expected, expected, "float32")
    assert doubled == {"difference": 1.0, "agreement": pytest.approx(1.0), "passed": False}
    assert gpu_checks.compared(2 * expected, expected, "float32", jumps=True)["passed"]
    assert not gpu_checks.compared(expected.flip(1), expected, "float32", jumps=True)["passed"]
    # The worst image counts.
    pair = torch.cat([expected, 2 * expected])
    assert gpu_checks.compared(pair, torch.cat([expected, expected]), "float32")["difference"] == 1.0
    assert not gpu_checks.compared(expected * torch.nan, expected, "bfloat16", jumps=True)["passed"]
    zero = torch.zeros_like(expected)
    assert gpu_checks.compared(zero, zero, "float32")["passed"]


def test_operations_are_those_that_torch_counts() -> None:
    with gpu_costs.Flops() as counter:
        nn.Linear(3, 5, bias=False)(torch.zeros(7, 3))
    assert counter.total == 2 * 7 * 3 * 5
    model, inputs = small_vit(), images()
    with gpu_costs.Flops() as counter:
        model(inputs).sum().backward()
    with FlopCounterMode(display=False) as known:
        model(inputs).sum().backward()
    assert counter.total == known.get_total_flops() > 0


def test_bytes_of_u_by_hand() -> None:
    setting = gpu_costs.settings(quick=True)[0]  # 3 x 3 patches, two layers, two heads of 16, bfloat16
    assert (setting.dtype, setting.batch) == ("bfloat16", 1)
    # Per head 81 values of mean and of squares: written, read, written; then U.
    assert gpu_costs.u_bytes(setting, gpu_costs.U) == 4 * 81 * (2 * 2 * 3 + 1)
    # Queries and keys of ten tokens, 32 numbers each, in two layers: copied and stacked, each of which reads and
    # writes, and read by two kernels.
    assert gpu_costs.u_bytes(setting, gpu_costs.FUSED) == 6 * 2 * 2 * 10 * 32 * 2 + 4 * 81
    assert gpu_costs.u_bytes(setting, "gmar") is None


@pytest.mark.parametrize("setting", gpu_costs.settings(quick=False), ids=str)
def test_the_models_of_all_settings_exist(setting: gpu_costs.Setting) -> None:
    for kind in ("vit", "winft"):
        model = setting.model(kind, "meta")
        assert isinstance(model, timm.models.vision_transformer.VisionTransformer)
        assert model.patch_embed.num_patches == {224: 196, 518: 1369, 1024: 4096}[setting.size]
