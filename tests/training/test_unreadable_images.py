"""Unreadable images are counted separately and not replaced, in evaluation, training and two processes."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers.command_line import run
from tests.helpers.tiny_images import CLASSES, SIZE, TRAIN, VAL, make_images, tiny_settings
from tests.helpers.trained import NoteKeeper, free_ports, same_run, stop_at
from tests.helpers.unreadable_images import TRAINED_ON, spoil, training_data
from vit_interactions.training.data.datasets import open_split
from vit_interactions.training.data.loaders import EvaluationLoader
from vit_interactions.training.evaluate import Evaluation, evaluate, run_evaluation
from vit_interactions.training.log import read_rows
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.training.train import train
from vit_interactions.utilities.processes import Process

CPU = Process(torch.device("cpu"))
CONFIG = {"input_size": (3, SIZE, SIZE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
CONFIG |= {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}

# Unreadable evaluation images by class: all of one batch of three in each of two processes, and some others.
BROKEN = {"class0": (0, 1, 2, 3, 4), "class1": (0, 2), "class2": (1,)}
NAMES = [f"{name}/{number}.png" for name, numbers in BROKEN.items() for number in numbers]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of which some are unreadable, the readable ones alone, and a model."""
    folder: Path = tmp_path_factory.mktemp("unreadable")
    for name in ("data", "rest"):
        make_images(folder / name)
    spoil(folder / "data" / "val", NAMES)
    for name in NAMES:
        (folder / "rest" / "val" / name).unlink()
    torch.manual_seed(3)
    model = timm.create_model("test_vit", img_size=SIZE, num_classes=CLASSES)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "classes.txt").write_text("class0\nclass1\nclass2\n")
    return folder


def evaluated(root: Path, name: str, **changes: Any) -> Evaluation | None:
    common: dict[str, Any] = {
        "model": "test_vit",
        "checkpoint": root / "model.safetensors",
        "class_map": root / "classes.txt",
        "img_size": SIZE,
        "batch_size": 3,
        "workers": 0,
    }
    return run_evaluation(EvaluationSettings(data=root / name, **{**common, **changes}))


def same_numbers(one: Evaluation, other: Evaluation) -> bool:
    names = ("images", "top1", "top5", "operations", "pairs")
    alike = all(getattr(one, name) == getattr(other, name) for name in names)
    return alike and one.loss == pytest.approx(other.loss, rel=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_cover_the_readable_images(workers: int, root: Path) -> None:
    result, rest = evaluated(root, "data", workers=workers), evaluated(root, "rest", workers=workers)
    assert result is not None
    assert rest is not None
    assert rest.images == CLASSES * VAL - len(NAMES) == 7
    assert same_numbers(result, rest)
    assert list(result.unreadable) == NAMES
    assert "class0/1.png` is not an image that can be read" in result.unreadable["class0/1.png"]
    assert "is EPS/PostScript" in result.unreadable["class0/2.png"]
    assert rest.unreadable == {}
    assert result.as_row()["unreadable"] == 8
    assert str(result).endswith(f", 7 images, 8 could not be read: {', '.join(NAMES)}")


def test_command_names_unreadable_images_and_exits_with_1(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "test_vit", "--checkpoint", root / "model.safetensors", "--img-size", SIZE]
    common += ["--workers", 0, "--class-map", root / "classes.txt"]
    assert run("evaluate", root / "data", *common, "--out", tmp_path / "result.json") == 1
    shown = capsys.readouterr()
    assert f"7 images (8 could not be read: {', '.join(NAMES)})" in shown.err
    assert "Traceback" not in shown.err
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["images"], written["unreadable"], written["top5"]) == (7, 8, None)
    assert list(written["unreadable_images"]) == NAMES
    assert run("evaluate", root / "rest", *common, "--out", tmp_path / "rest.json") == 0
    rest = json.loads((tmp_path / "rest.json").read_text())
    assert rest["loss"] == pytest.approx(written["loss"], rel=1e-6)
    assert rest["unreadable"] == 0


def test_no_readable_image_is_an_error(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "data")
    spoil(tmp_path / "data" / "val", [f"class{c}/{i}.png" for c in range(CLASSES) for i in range(VAL)])
    command = ["evaluate", tmp_path / "data", "--model", "test_vit", "--checkpoint", root / "model.safetensors"]
    assert run(*command, "--img-size", SIZE, "--workers", 0) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "`data` must have images that can be read, got none of 15: class0/0.png: " in shown


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_raise(
    value: float, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(root / "model.safetensors")
    weights["head.bias"][1] = value
    save_file(weights, tmp_path / "model.safetensors")
    command = ["evaluate", root / "rest", "--model", "test_vit", "--checkpoint", tmp_path / "model.safetensors"]
    command += ["--img-size", SIZE, "--workers", 0, "--class-map", root / "classes.txt"]
    assert run(*command, "--out", tmp_path / "out.json") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "`model` must give finite outputs, got NaN or infinite ones for 7 of 7 images" in shown
    assert not (tmp_path / "out.json").exists()


class Fixed(nn.Module):
    """A classifier that returns the first pixels as scores."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, : self.classes]


@pytest.mark.parametrize(("classes", "top5"), [(4, None), (5, 100.0), (6, 50.0)])
def test_top_5_needs_five_classes(classes: int, top5: float | None) -> None:
    images = torch.arange(6.0).expand(2, 6).view(2, 1, 2, 3)
    result = evaluate(Fixed(classes), [(images, torch.tensor([0, classes - 1]))])
    assert (result.top1, result.top5) == (50.0, top5)
    assert ("top-5" in str(result)) == (top5 is not None)


@pytest.mark.parametrize("number", [-1, 4])
def test_class_numbers_of_another_model_raise(number: int) -> None:
    images = torch.arange(6.0).expand(2, 6).view(2, 1, 2, 3)
    with pytest.raises(ValueError, match="got class numbers that it does not have for 1 of 2 images"):
        evaluate(Fixed(4), [(images, torch.tensor([0, number]))])


def test_model_with_one_class_raises(root: Path, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=SIZE, num_classes=1)
    save_file(model.state_dict(), tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="`model` must classify into at least two classes, got 1"):
        evaluated(root, "rest", checkpoint=tmp_path / "one.safetensors", class_map=None)


def test_each_image_is_in_one_batch_of_one_process(root: Path) -> None:
    images = open_split(root / "data", "val")
    found, counts = [], []
    for rank in range(2):
        loader = EvaluationLoader(images, CONFIG, Process(CPU.device, rank, 2), batch_size=3, workers=0)
        batches = list(loader)
        assert len(loader) == len(batches) == 3
        assert all(x.shape == (len(y), 3, SIZE, SIZE) for x, y in batches)
        counts.append([len(y) for _, y in batches])
        found += [int(number) for _, classes in batches for number in classes]
        assert len(loader.unreadable) == [3, 5][rank]
    assert sorted(found) == [1] * 3 + [2] * 4
    assert 0 in counts[0] + counts[1]


@pytest.mark.parametrize("mixed", [{}, {"mixup": 0.5, "smoothing": 0.1}])
def test_accumulated_step_equals_the_whole_step(mixed: dict[str, Any], tmp_path: Path) -> None:
    """Images are mixed within a part, so mixed runs only need finite weights."""
    data = training_data(tmp_path)
    for parts in (1, 4):
        settings = tiny_settings(data, model="test_vit", accumulate=parts, epochs=1, **mixed)
        train(settings, tmp_path / str(parts))
    one, other = (load_file(tmp_path / str(parts) / "last" / "model.safetensors") for parts in (1, 4))
    assert all(value.isfinite().all() for value in other.values())
    if mixed:
        return
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)
    first, second = (read_rows(tmp_path / str(parts) / "summary.csv")[0] for parts in (1, 4))
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-4)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resumed_run_is_the_same_and_notes_the_same(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(training_data(tmp_path), mixup=0.2, accumulate=2)
    whole, first, second = NoteKeeper(), NoteKeeper(), NoteKeeper()
    train(settings, tmp_path / "whole", reporter=whole)
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        train(settings, tmp_path / "stopped", reporter=first)
    assert train(settings, tmp_path / "stopped", resume=True, reporter=second).step == 6
    assert same_run(tmp_path / "whole", tmp_path / "stopped")
    said = [[text for text in told.notes if "could not be read" in text] for told in (whole, first, second)]
    assert said[0] == said[1] + said[2]
    assert len(said[0]) == 2
    for epoch, text in enumerate(said[0]):
        names = [name for name in TRAINED_ON if name in text]
        assert len(names) >= 3  # images that do not fill the last step are not read
        assert text == f"epoch {epoch}: of the training images, {len(names)} could not be read: {', '.join(names)}"


def test_no_readable_training_image_is_an_error(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    spoil(data / "train", [f"class{c}/{i}.png" for c in range(CLASSES) for i in range(TRAIN)])
    with pytest.raises(ValueError, match=r"must have training images that can be read, got none in epoch 0: "):
        train(tiny_settings(data, model="test_vit"), tmp_path / "run")


def _process(rank: int, root: Path, ports: list[int]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")

    def meet() -> None:
        os.environ["MASTER_PORT"] = str(ports.pop())

    meet()
    result = evaluated(root, "data")
    meet()
    told = NoteKeeper()
    train(tiny_settings(root / "train", model="test_vit", batch_size=4, epochs=1), root / "two", reporter=told)
    if rank == 0:
        assert result is not None
        numbers = {name: value for name, value in result.as_row().items() if name != "throughput"}
        written = {"evaluation": numbers, "unreadable": dict(result.unreadable), "notes": told.notes}
        (root / "two.json").write_text(json.dumps(written))


def test_two_processes_equal_one(root: Path, tmp_path: Path) -> None:
    shutil.copytree(training_data(tmp_path), root / "train")
    torch.multiprocessing.spawn(_process, args=(root, free_ports(2)), nprocs=2)
    together = json.loads((root / "two.json").read_text())
    alone = evaluated(root, "rest")
    assert alone is not None
    for name in ("images", "loss", "top1", "operations", "pairs"):
        assert together["evaluation"][name] == pytest.approx(getattr(alone, name), rel=1e-6), name
    assert list(together["unreadable"]) == NAMES
    told = NoteKeeper()
    train(tiny_settings(root / "train", model="test_vit", batch_size=4, epochs=1), tmp_path / "one", reporter=told)
    one, two = (load_file(folder / "last" / "model.safetensors") for folder in (tmp_path / "one", root / "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    said = [[text for text in notes if "training images" in text] for notes in (told.notes, together["notes"])]
    assert said[0] == said[1]
    assert "could not be read" in said[0][0]
