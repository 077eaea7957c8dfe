"""Comparisons that are killed, resumed, shared among processes and started from the command line."""

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.compared import make_model, scores
from tests.helpers.resumed import METHODS, METRICS, arguments, compare
from vit_interactions.compare import maps, plan, records
from vit_interactions.compare import run as running
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.plan import make_plan
from vit_interactions.compare.report.page import report
from vit_interactions.metrics import Metric, Score, iou
from vit_interactions.utilities.processes import Process

KILLS: dict[str, tuple[Any, str, int]] = {
    "while explaining": (maps, "as_relevance", 3 * len(METHODS) + 2),  # once more for the warm-up
    "between a record's arrays and its numbers": (records, "write_json", 3),
}


def _killed(root: Path, where: str) -> None:
    torch.set_num_threads(1)
    module, name, last = KILLS[where]
    original: Callable[..., object] = getattr(module, name)
    calls = 0

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(module, name, counted)
    compare(root)


@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_resumes_to_the_same_table(
    where: str, root: Path, measured: list[object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = compare(root, out=root / "whole")
    measured.clear()
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(root, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    unfinished = Comparison.open(root / "out")
    assert unfinished.unfinished == 2
    pd.testing.assert_frame_equal(scores(unfinished), scores(whole)[: len(scores(whole)) // 2])
    assert unfinished.maps("VisionTransformer", "c") == {}
    resumed = compare(root, resume=True)
    assert len(measured) == 2
    assert resumed.unfinished == 0
    pd.testing.assert_frame_equal(scores(resumed), scores(whole))
    for key in "abcd":
        for one, other in zip(
            *(comparison.maps("VisionTransformer", key).values() for comparison in (whole, resumed)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert resumed.images == whole.images
    assert len(scores(whole)) == 4 * len(METHODS) * len(METRICS)


def test_resuming_measures_changed_images_again(root: Path, measured: list[object]) -> None:
    compare(root)

    def made(**options: Any) -> int:
        measured.clear()
        compare(root, resume=True, **options)
        return len(measured)

    assert made() == 0
    path = root / "images" / "b.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert made() == 1
    Image.open(path).save(root / "images" / "e.png")
    assert made() == 1
    boxes = (root / "boxes.csv").read_text()
    (root / "boxes.csv").write_text(boxes.replace("c.png,10", "c.png,11"))
    assert made() == 1
    (root / "images" / "e.png").unlink()
    assert made() == 0
    with pytest.raises(ValueError, match="which has a comparison: resume it"):
        compare(root)


def test_resuming_with_other_settings_raises_and_loses_nothing(
    root: Path, measured: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compare(root)
    trained = make_model()
    trained.head.weight.data += 0.1  # type: ignore[union-attr, operator]
    measured.clear()
    for changes, words in (
        ({"alpha": 0.2}, "settings: alpha was 0.1, now is 0.2"),
        ({"coverage": 0.9}, "settings: coverage was 1.0, now is 0.9"),
        ({"seed": 1}, "settings: seed was 0, now is 1"),
        ({"batch_size": 2}, "settings: batch_size was 1, now is 2"),
        ({"methods": [*METHODS, "gmar"]}, "settings: methods gmar was added"),
        ({"metrics": METRICS[:1]}, "settings: metrics pointing_game was removed"),
        ({"metrics": [METRICS[0], iou(0.2)]}, "settings: metrics pointing_game was removed"),
        ({"model": trained}, 'models: VisionTransformer weights was "'),
        ({"model": {"vit": make_model()}}, "models: VisionTransformer was removed"),
    ):
        with pytest.raises(ValueError, match="started with other " + re.escape(words)):
            compare(root, resume=True, **changes)
    monkeypatch.setattr(plan, "versions", lambda: {"python": "2.7"})
    with pytest.raises(ValueError, match=r"versions: python was .*, now is \"2.7\""):
        compare(root, resume=True)
    assert not measured
    pd.testing.assert_frame_equal(Comparison.open(root / "out").table(), before.table())


@pytest.mark.parametrize(("error", "again"), [(RuntimeError, 4), (ValueError, 0)])
def test_resuming_retries_transient_failures(
    error: type[Exception],
    again: int,
    root: Path,
    measured: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise error("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(vi.RawAttention, "_explain", broken)
        assert len(compare(root).failures()) == 4
    measured.clear()
    assert len(compare(root, resume=True).failures()) == 4 - again
    assert len(measured) == again


def test_a_process_measures_its_share(root: Path) -> None:
    made = make_plan(
        [root / "images"],
        make_model(),
        METHODS,
        [],
        boxes=None,
        masks=None,
        target="pred",
        alpha=0.1,
        beta=0.2,
        device="cpu",
        seed=0,
    )
    for rank, keys in ((1, ["b", "d"]), (0, ["a", "c"])):
        out = root / f"out-{rank}"
        running.run(made, out, Process(torch.device("cpu"), rank, 2))
        assert sorted(path.stem for path in (out / "records" / "visiontransformer").glob("*.json")) == keys
        assert (out / "comparison.json").exists() == (rank == 0)


def test_two_processes_give_the_table_of_one(root: Path, checkpoint: Path) -> None:
    script = root / "main.py"
    script.write_text("from vit_interactions.cli.main import main\n\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    together = subprocess.run(
        [*launcher, str(script), *arguments(root, checkpoint, "together")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("method") == 1, "one process speaks"
    assert run(*arguments(root, checkpoint, "alone")) == 0
    one, other = (Comparison.open(root / name) for name in ("alone", "together"))
    assert other.unfinished == 0
    assert len(scores(one)) == 4 * len(METHODS) * len(METRICS)
    pd.testing.assert_frame_equal(scores(other), scores(one), rtol=1e-5)


def test_a_custom_metric_is_compared(root: Path) -> None:
    own = Metric(
        "own", "none", (0, 1), "here", {"path": Path("a")}, frozenset(), "none", lambda case, patch_map: Score(0.5)
    )
    comparison = compare(root, metrics=[own])
    assert comparison.settings["metrics"]["own"] == {
        "direction": "none",
        "range": [0, 1],
        "source": "here",
        "parameters": {"path": "a"},
        "needs": [],
        "cost": "none",
    }
    assert comparison.directions["own"] == "none"
    assert set(comparison.table().query("metric == 'own'")["value"]) == {0.5}


def test_a_model_that_raises_loses_one_image(root: Path) -> None:
    model = make_model()
    calls = 0

    def moody(module: nn.Module, arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyError("mood")

    model.register_forward_pre_hook(moody)
    comparison = compare(root, model=model, methods=["random_map"], metrics=["pointing_game"])
    assert comparison.unfinished == 0
    assert 0 < len(comparison.failures()) < 4 * 2


def test_damaged_results_are_measured_again(root: Path, measured: list[object]) -> None:
    compare(root)
    [folder] = (root / "out" / "records").iterdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text("{}")
    (folder / "c.npz").unlink()
    before = len(measured)
    comparison = compare(root, resume=True)
    assert len(measured) - before == 3
    assert comparison.unfinished == 0
    assert report(comparison, root / "report.html").stat().st_size > 0


def test_a_run_killed_at_its_first_write_can_be_started_again(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / ".comparison.json.partial").write_text("{")
    assert compare(root).unfinished == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_log_gets_a_line_a_minute(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    written = io.StringIO()
    monkeypatch.setattr(running, "console", Console(file=written, highlight=False, width=30))
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])
    with running.progress(20, Process(torch.device("cpu"), rank, 2)) as advance:
        for seconds, done, fresh in ((1, 9, 0), (30, 1, 1), (90, 2, 2), (100, 1, 1), (150, 1, 1)):
            now[0] = seconds
            advance(done, fresh)
    expected = [
        "compared 12 of 20 (the first of 2 processes), about 0:04:00 left",  # 3 took 90 seconds; 8 are left
        "compared 14 of 20 (the first of 2 processes), about 0:03:00 left",
    ]
    assert written.getvalue().splitlines() == (expected if rank == 0 else [])
