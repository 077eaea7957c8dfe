"""Resuming runs whose files are damaged or edited, or with other data or another model."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.tiny_images import tiny_settings
from tests.helpers.trained import read, refused
from vit_interactions.training.checkpoint import save_checkpoint
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train
from vit_interactions.utilities.json_files import DamagedFileError

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
ADVICE = "Restore the file, or train again into another folder."


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
