"""Resuming runs whose files are damaged or edited, or with other data or another model."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.helpers.command_line import set_field
from tests.helpers.tiny_images import tiny_settings
from vit_interactions.training.checkpoint import save_checkpoint
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train
from vit_interactions.training.trainer import Trainer
from vit_interactions.utilities.json_files import DamagedFileError

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
ADVICE = "Restore the file, or train again into another folder."


@pytest.fixture(scope="module")
def settings(image_folder: Path) -> TrainingSettings:
    return tiny_settings(image_folder, model="test_vit", ema=0.9, checkpoint_every=2, val_split="")


@pytest.fixture(scope="module")
def stopped(settings: TrainingSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that ended in the middle of its second epoch, with a checkpoint of step 4."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train_step = Trainer.train_step

    def failing(self: Trainer, batches: Iterator[Any]) -> None:
        train_step(self, batches)
        if self.step == 5:
            raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(MemoryError):
            train(settings, out)
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """Copy the stopped run."""
    return shutil.copytree(stopped, tmp_path / "run")


def read(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))


def refused(settings: TrainingSettings, out: Path) -> str:
    """Resume, which must fail with one line and change no file, and return that line."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"\w") as found:
        train(settings, out, resume=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "\n" not in str(found.value)
    return str(found.value)


def put(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes one field, such as "a/b" for b in a; `...` deletes it."""

    def change(state: dict[str, Any]) -> None:
        set_field(state, field, value)

    return change


NAN = float("nan")
WEIGHT = "patch_embed.proj.bias"
FIELDS: list[tuple[str, Any, str]] = [
    ("step", "4", "`step` must be a whole number, got '4'"),
    ("step", -1, "`step` must be >= 0, got -1"),
    ("step", NAN, "`step` must be a whole number, got nan"),
    ("step", 5, "was edited: the checksum of its plain values"),
    ("evaluated", 5, "`evaluated` must be in [0, 4], got 5"),
    ("evaluated", 2, "was edited: the checksum of its plain values"),
    ("lr", 0.01, "was edited: the checksum of its plain values"),
    ("best", 99.0, "was edited: the checksum of its plain values"),
    ("plain_sha256", ..., "was edited: the checksum of its plain values"),
    ("epoch_steps", 0, "`epoch_steps` must be >= 1, got 0"),
    ("best", NAN, "`best` must be a number, got nan"),
    ("lr", torch.zeros(2), "`lr` must be a number, got tensor([0., 0.])"),
    ("optimizer", ..., "has no `optimizer`"),
    ("state_dict_ema", ..., "has no `state_dict_ema`"),
    ("meter", [], "`meter` must be an object, got []"),
    ("meter/counts/epoch", ..., "has no `meter.counts.epoch`"),
    ("meter/sums/epoch/loss", NAN, "`meter.sums.epoch.loss` must be a number, got nan"),
    (f"state_dict/{WEIGHT}", ..., f"has no `state_dict.{WEIGHT}`"),
    ("state_dict/more", torch.zeros(1), "`state_dict` must have the model's weights only, got `more`"),
    (
        f"state_dict/{WEIGHT}",
        torch.zeros(3),
        f"`state_dict.{WEIGHT}` must be float32 of shape (64,), got float32 of shape (3,)",
    ),
    (f"state_dict_ema/{WEIGHT}", torch.full((64,), NAN), f"`state_dict_ema.{WEIGHT}` must be finite, got NaN"),
    ("optimizer/param_groups", [], "`optimizer.param_groups` must have length 1, got 0"),
    ("optimizer/param_groups/0/momentum", ..., "has no `optimizer.param_groups[0].momentum`"),
    ("optimizer/param_groups/0/params/0", ..., "`optimizer.param_groups[0].params` must have length"),
    ("optimizer/state/999", {}, "`optimizer.state` has an unknown entry 999"),
    ("optimizer/state/3/momentum_buffer", torch.zeros(3), "`optimizer.state[3].momentum_buffer` must have shape"),
    (
        "optimizer/state/0/momentum_buffer",
        torch.full((1, 1, 64), NAN),
        "`optimizer.state[0].momentum_buffer` must",
    ),
]


@pytest.mark.parametrize(("field", "value", "words"), FIELDS, ids=[f"{f}={str(v)[:9]}" for f, v, _ in FIELDS])
def test_an_edited_field_of_a_checkpoint_is_named(
    field: str, value: Any, words: str, settings: TrainingSettings, out: Path
) -> None:
    state = read(out / "checkpoint.pt")
    put(field, value)(state)
    torch.save(state, out / "checkpoint.pt")
    line = refused(settings, out)
    assert line.startswith(str(out / "checkpoint.pt"))
    assert words in line
    assert line.endswith(ADVICE)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_of_a_checkpoint_is_found(place: float, settings: TrainingSettings, out: Path) -> None:
    path = out / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 64
    path.write_bytes(content)
    assert f"{path} is damaged: the checksum of its part archive/" in refused(settings, out)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_file_that_is_not_a_checkpoint_is_named(content: bytes, settings: TrainingSettings, out: Path) -> None:
    (out / "checkpoint.pt").write_bytes(content)
    assert f"{out / 'checkpoint.pt'}, which could not be read as one (BadZipFile). {ADVICE}" in refused(
        settings, out
    )


def test_damaged_settings_are_named(settings: TrainingSettings, out: Path) -> None:
    path = out / "settings.json"
    content = json.loads(path.read_text())
    for text, words in (
        ("", "is damaged: it is not JSON"),
        ("[" * 200_000, "is damaged: its JSON is nested too deeply"),
        ("[]", "must contain a JSON object, got a list"),
        (json.dumps({k: v for k, v in content.items() if k != "lr"}), "got `lr` 0.05, not missing."),
        (json.dumps({**content, "lr": "x"}), "got `lr` 0.05, not 'x'."),
    ):
        path.write_text(text)
        line = refused(settings, out)
        assert str(path) in line
        assert words in line
    path.unlink()
    assert refused(settings, out) == f"{path} is missing next to checkpoint.pt. {ADVICE}"


@pytest.mark.parametrize("name", ["log.csv", "summary.csv"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\n", "it is not UTF-8 text"),
        (b"step,loss\nx,1\n", "a row begins with 'x,1"),
        (b"step,loss\n0,x\n", "it is not a table of numbers"),
    ],
)
def test_a_damaged_log_is_named_before_training(
    name: str, content: bytes, words: str, settings: TrainingSettings, out: Path
) -> None:
    (out / name).write_bytes(content)
    with pytest.raises(DamagedFileError) as found:
        train(settings, out, resume=True)
    assert str(found.value).startswith(f"{out / name} is damaged: {words}")
    (out / name).unlink()
    assert train(settings, out, resume=True).step == 6


def test_resume_with_other_image_names_raises(
    settings: TrainingSettings, image_folder: Path, out: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(image_folder, tmp_path / "moved")
    image = next((moved / "train" / "class0").iterdir())
    image.rename(image.with_name("other.png"))
    other = tiny_settings(moved, **{k: v for k, v in vars(settings).items() if k != "data"})
    assert "`data` must be the images that the run started with, got other names" in refused(other, out)
    image.with_name("other.png").rename(image)
    assert train(other, out, resume=True).step == 6


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        (
            "pretrained_cfg",
            {"mean": (0.4, 0.5, 0.5)},
            "must come with the model's input size, mean, std, crop and",
        ),
        (
            "pretrained_cfg",
            {"interpolation": "nearest"},
            "must come with the model's input size, mean, std, crop and",
        ),
        ("depth", 7, "must come with the model that the run started with, got other arguments or other code"),
    ],
)
def test_resume_with_other_model_options_raises(
    attribute: str, value: Any, words: str, settings: TrainingSettings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def changed(*arguments: Any, **options: Any) -> Any:
        model = create(*arguments, **options)
        before = getattr(model, attribute, None)
        setattr(model, attribute, {**before, **value} if isinstance(before, dict) else value)
        return model

    monkeypatch.setattr(timm, "create_model", changed)
    assert words in refused(settings, out)


def test_a_new_run_removes_nothing(settings: TrainingSettings, tmp_path: Path) -> None:
    mine = tmp_path / "home" / ".download.partial"
    mine.mkdir(parents=True)
    (mine / "data").write_text("mine")
    train(settings, mine.parent)
    assert (mine / "data").read_text() == "mine"


def test_resume_removes_partial_files(settings: TrainingSettings, out: Path) -> None:
    stale = [out / ".checkpoint.pt.partial", out / "last" / ".model.safetensors.partial"]
    for path in stale:
        path.write_bytes(b"half")
    (out / "last" / ".export.partial").mkdir()
    (out / "last" / ".export.partial" / "model.safetensors").write_bytes(b"half")
    train(settings, out, resume=True)
    assert sorted(path.name for path in out.rglob(".*")) == []
    assert {path.name for path in (out / "last").iterdir()} == {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def done(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingSettings, Path]:
    """Train a run to its end, with evaluations."""
    settings = tiny_settings(image_folder, model="test_vit", epochs=2)
    out = tmp_path_factory.mktemp("done") / "run"
    train(settings, out)
    return settings, out


def damage(path: Path, how: str) -> None:
    path.unlink()
    if how == "flipped":
        path.write_bytes(b"\0" * 8)
    elif how == "a folder":
        path.mkdir()


@pytest.mark.parametrize("how", ["missing", "flipped", "a folder"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_best_model_of_a_finished_run_is_named(
    how: str, name: str, done: tuple[TrainingSettings, Path], tmp_path: Path
) -> None:
    settings, whole = done
    out = shutil.copytree(whole, tmp_path / "run")
    state = read(out / "checkpoint.pt")
    # If the best model is not the last one, only the checksums of its files are known.
    (out / "best" / name).write_bytes(b"another model")
    state["best_files"][name] = hashlib.sha256(b"another model").hexdigest()
    save_checkpoint(out / "checkpoint.pt", state)
    assert train(settings, out, resume=True).step == state["step"]
    assert (out / "best" / name).read_bytes() == b"another model"
    damage(out / "best" / name, how)
    with pytest.raises(DamagedFileError) as found:
        train(settings, out, resume=True)
    assert str(found.value) == f"{out / 'best' / name} is missing or damaged: its checksum differs. {ADVICE}"


def test_damaged_best_model_is_restored_from_the_last_one(
    done: tuple[TrainingSettings, Path], tmp_path: Path
) -> None:
    settings, whole = done
    out = shutil.copytree(whole, tmp_path / "run")
    state = read(out / "checkpoint.pt")
    last = {path.name: path.read_bytes() for path in (out / "last").iterdir()}
    state["best_files"] = {name: hashlib.sha256(content).hexdigest() for name, content in last.items()}
    save_checkpoint(out / "checkpoint.pt", state)
    for folder in ("last", "best"):
        shutil.rmtree(out / folder)
    train(settings, out, resume=True)
    for folder in ("last", "best"):
        assert {path.name: path.read_bytes() for path in (out / folder).iterdir()} == last


def test_checkpoint_has_the_checksums_of_the_best_model(done: tuple[TrainingSettings, Path]) -> None:
    _, out = done
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "best").iterdir()}
    assert len(files) == 2
    assert read(out / "checkpoint.pt")["best_files"] == files
