"""Comparisons that are killed, resumed, shared among processes and started from the command line."""

import gc
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.compared import make_model, scores
from vit_interactions.compare import maps, plan, records
from vit_interactions.compare import run as running
from vit_interactions.compare import scoring as measure
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.plan import make_plan
from vit_interactions.compare.report.page import report
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.metrics import Metric, Score, iou
from vit_interactions.training.export import export_model
from vit_interactions.utilities.processes import Process

METHODS = ["raw_attention", "responsive_field_size", "random_map"]
METRICS = ["deletion", "pointing_game"]


def make_images(folder: Path) -> list[Path]:
    """Four images of noise, with boxes beside them."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for name in "abcd":
        pixels = random.integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    rows = [f"{name}.png,10,10,40,50\n" for name in "abcd"]
    (folder / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return sorted((folder / "images").iterdir())


def compare(root: Path, **options: Any) -> Comparison:
    """Compare on the images of a folder, into it."""
    common = {"boxes": root / "boxes.csv", "out": root / "out", "methods": METHODS, "metrics": METRICS}
    return vi.compare([root / "images"], **{"model": make_model(), **common, **options})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows by one for every measured image."""
    calls: list[object] = []

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return measure.measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "measure", counted)
    return calls


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


def test_batches_give_the_results_of_single_images(root: Path, measured: list[object]) -> None:
    methods = [*METHODS, "gmar", "saliency", "gradient_shap"]
    alone = compare(root, methods=methods, out=root / "alone")
    sizes: list[int] = []
    explained = running.explain_batch

    def counted(model: nn.Module, inputs: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(inputs))
        return explained(model, inputs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "explain_batch", counted)
        together = compare(root, methods=methods, batch_size=3)
        assert sizes == [3, 1]
        pd.testing.assert_frame_equal(scores(together), scores(alone), rtol=1e-4)
        for key in "abcd":
            for method, values in together.maps("VisionTransformer", key).items():
                expected = alone.maps("VisionTransformer", key)[method]
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        # What is missing is explained with the images that it was explained with before: the same bits.
        (root / "out" / "records" / "visiontransformer" / "b.json").unlink()
        measured.clear()
        sizes.clear()
        resumed = compare(root, methods=methods, batch_size=3, resume=True)
    assert sizes == [3]
    assert len(measured) == 1
    pd.testing.assert_frame_equal(scores(resumed), scores(together), rtol=0, atol=0)


def test_an_image_that_breaks_its_batch_costs_only_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (70, 80), (255, 0, 0)).save(root / "images" / "b.png")
    (root / "images" / "c.png").write_bytes(b"no picture")
    explain = vi.RawAttention._explain

    def picky(self: vi.RawAttention, inputs: torch.Tensor, *rest: Any) -> Any:
        if any(image.std((1, 2)).max() < 1e-6 for image in inputs):
            raise RuntimeError("no red, please")
        return explain(self, inputs, *rest)

    monkeypatch.setattr(vi.RawAttention, "_explain", picky)
    comparison = compare(root, batch_size=4)
    failures = comparison.failures().set_index(["image", "method"])["reason"]
    assert failures["b", "raw_attention"] == "RuntimeError: no red, please"
    assert "not an image" in failures["c", ""]
    assert len(failures) == 2
    assert comparison.unfinished == 0
    alone = compare(root, out=root / "alone")
    pd.testing.assert_frame_equal(scores(comparison), scores(alone), rtol=1e-4)


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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5)
    for block in model.blocks:
        block.attn.qkv.weight.data.mul_(10)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def arguments(root: Path, checkpoint: Path, out: str) -> list[str]:
    """Return a command line."""
    chosen = [part for name in METHODS for part in ("--method", name)]
    chosen += [part for name in METRICS for part in ("--metric", name)]
    model = ["--model", "test_vit", "--checkpoint", str(checkpoint)]
    boxes = ["--boxes", str(root / "boxes.csv")]
    return ["compare", str(root / "images"), *model, *chosen, *boxes, "--out", str(root / out)]


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
    assert together.stdout.count("pointing_game") == 1, "one process speaks"
    assert run(*arguments(root, checkpoint, "alone")) == 0
    one, other = (Comparison.open(root / name) for name in ("alone", "together"))
    assert other.unfinished == 0
    assert len(scores(one)) == 4 * len(METHODS) * len(METRICS)
    pd.testing.assert_frame_equal(scores(other), scores(one), rtol=1e-5)


def test_the_command_prints_the_best_first(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments(root, checkpoint, "out")) == 0
    shown = capsys.readouterr()
    assert f"the results are in {root / 'out'}" in shown.err
    summary = Comparison.open(root / "out").summary().set_index(["metric", "method"])
    lines = shown.out.splitlines()
    for metric, words, down in (
        ("deletion", "lower is better", True),
        ("pointing_game", "higher is better", False),
        ("forwards", "forward passes", True),
    ):
        begin = next(number for number, line in enumerate(lines) if metric in line)
        rows = lines[begin : begin + len(METHODS)]
        methods = [next(part for part in row.split() if part in METHODS) for row in rows]
        means = [summary.loc[(metric, method), "mean"] for method in methods]
        assert sorted(methods) == sorted(METHODS)
        assert means == sorted(means, reverse=not down)
        assert words in rows[1]
        assert f"{means[0]:.3g}" in rows[0]
    before = (root / "out" / "comparison.json").read_text()
    assert run(*arguments(root, checkpoint, "out")) == 2
    assert "resume it (--resume)" in capsys.readouterr().err
    assert run(*arguments(root, checkpoint, "out"), "--resume") == 0
    assert (root / "out" / "comparison.json").read_text() == before


def test_broken_images_and_hostile_names_lose_nothing_else(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "images"
    sound = (folder / "a.png").read_bytes()
    names = ["<img src=x onerror=alert(1)>.png", "[red]b.png", "c\x1b[31m.png", "\udcff.png", "x" * 250 + ".png"]
    for name in names:
        (folder / name).write_bytes(sound)
    (folder / "[bold]\x1btext.jpg").write_text("<script>alert(1)</script>")
    (folder / "truncated.png").write_bytes(sound[:3000])
    assert run(*arguments(root, checkpoint, "out")) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.err + shown.out
    assert "[bold]\ufffdtext.jpg" in shown.err
    assert "truncated.png` is not an image that can be read" in shown.err
    comparison = Comparison.open(root / "out")
    images = {image.name: image for image in comparison.images}
    assert [name for name, image in images.items() if image.error is not None] == [
        "[bold]\ufffdtext.jpg",
        "truncated.png",
    ]
    assert len(comparison.table()["image"].unique()) == 4 + len(names)
    # The same pixels, the same values, whatever they are called; but they have no boxes.
    keys = [image.key for image in comparison.images if image.sha256 is not None]
    assert len(set(keys)) == 11
    deletion = comparison.table().query("metric == 'deletion' and method == 'raw_attention'")
    values = deletion.set_index("image")["value"]
    assert values["img-src-x-onerror-alert-1"] == values["a"] != values["b"]
    for name in names:
        written = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\x1b", "\ufffd")
        key = images[written].key
        assert comparison.image(key).size == (70, 80)
    failures = comparison.failures()
    assert set(failures[failures["metric"] == "pointing_game"]["image"]) == {
        images[name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\x1b", "\ufffd")].key
        for name in names
    }


def test_a_folder_without_images_raises(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    model = ("--model", "test_vit", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert run("compare", tmp_path / "empty", *model) == 2
    assert "has none" in capsys.readouterr().err
    assert run("compare", tmp_path / "empty", *model, "--model", "test_vit") == 2
    assert "`--checkpoint` must come with one --model, got 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty" / "text.jpg").write_text("no picture")
    assert run("compare", tmp_path / "empty", *model) == 1
    out, shown = capsys.readouterr()
    assert "failed: text.jpg: `" in shown
    assert "metric" not in out  # a table without a row
    assert Comparison.open(tmp_path / "out").table().empty


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


def test_a_map_that_is_not_finite_is_that_methods_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = maps.as_relevance

    def broken(patch_map: torch.Tensor, explainer: object) -> torch.Tensor:
        turned = original(patch_map, explainer)  # type: ignore[arg-type]
        return turned * float("nan") if isinstance(explainer, vi.RawAttention) else turned

    monkeypatch.setattr(maps, "as_relevance", broken)
    comparison = compare(root)
    assert {*comparison.table()["method"]} == {*METHODS} - {"raw_attention"}
    reasons = comparison.failures().query("method == 'raw_attention'")["reason"]
    assert {*reasons} == {"the map has NaN or infinite values at 16 of 16 patches."}
    assert report(comparison, tmp_path / "report.html").stat().st_size > 0


def test_a_class_that_one_model_lacks_is_found_before_the_run(root: Path) -> None:
    torch.manual_seed(1)
    wide = timm.create_model("test_vit", num_classes=30, img_size=64)
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 4\] for the 5 classes of five, got 20"):
        compare(root, model={"five": make_model(), "thirty": wide}, target=20)


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


def test_notes_name_open_windows_and_other_windows_than_in_training(root: Path) -> None:
    model = make_model()
    export_model(model, root / "trained", arguments={"img_size": 64}, windows={"alpha": 0.5, "beta": 0.2})
    name = f"local-dir:{root / 'trained'}"
    common: dict[str, Any] = {"model": {"<b>vit</b>": name}, "metrics": []}
    for number, (alpha, methods, notes) in enumerate(
        [
            (0.5, METHODS, ["all patch pairs"]),  # of 16 patches every second pair: windows of nearly all
            (0.5, ["raw_attention"], []),
            (0.01, METHODS, ["<b>vit</b> was trained with --alpha 0.5, not 0.01"]),
        ]
    ):
        comparison = compare(root, **common, alpha=alpha, methods=methods, out=root / f"out-{number}")
        found = comparison.notes()
        assert len(found) == len(notes)
        assert all(note in text for note, text in zip(notes, found, strict=True))
        page = report(comparison, root / "report.html").read_text()
        for html in (page, comparison._repr_html_()):
            assert html.count("Note. ") == len(notes)
            assert "<b>vit" not in html
    image = prepare(read_image(root / "images" / "a.png"), model).input[None]
    windows = vi.responsive_field(
        vi.InteractionUncertainty(model).uncertainty(image), (4, 4), alpha=0.5, beta=0.2
    ).windows[0]
    pairs = sum((right - left + 1) * (bottom - top + 1) for left, top, right, bottom in windows.tolist())
    record = json.loads((root / "out-0" / "records" / "b-vit-b" / "a.json").read_text())
    assert record["window_share"] == pairs / 16**2 > 0.9


def test_memory_of_a_failed_method_is_free_before_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def greedy(self: vi.GMAR, inputs: torch.Tensor, *rest: Any) -> Any:
        alive.append(sum(each() is not None for each in held))
        much = torch.zeros(3)
        held.append(weakref.ref(much))
        raise torch.OutOfMemoryError("no memory")

    rollout = vi.AttentionRollout._explain

    def after(self: vi.AttentionRollout, *arguments: Any) -> Any:
        alive.append(sum(each() is not None for each in held))
        return rollout(self, *arguments)

    monkeypatch.setattr(vi.GMAR, "_explain", greedy)
    monkeypatch.setattr(vi.AttentionRollout, "_explain", after)
    gc.disable()
    try:
        comparison = compare(root, methods=["gmar", "attention_rollout"], metrics=[], batch_size=4)
    finally:
        gc.enable()
    assert len(held) == 1 + 1 + 4  # warm-up; at once, then one at a time
    assert set(alive) == {0}
    assert set(comparison.failures()["method"]) == {"gmar"}
    assert set(comparison.table()["method"]) == {"attention_rollout"}


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
