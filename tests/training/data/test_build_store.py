"""The window store: its content, killed and resumed builds, and errors for wrong stores."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_dataset
from torch import Tensor
from torchvision.datasets import FakeData, ImageFolder
from typer.testing import CliRunner

from vit_interactions.cli.main import app
from vit_interactions.training.data import build_store
from vit_interactions.training.data.build_store import BuildProgress, build_window_store
from vit_interactions.training.data.images import image_names, read_sample
from vit_interactions.training.data.window_store import Manifest, WindowStore, read_manifest
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.json_files import DamagedFileError

IMAGES = 26
SHARD = 8


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards small, so that a few images fill several."""
    assert build_store.SHARD == 1024
    monkeypatch.setattr(build_store, "SHARD", SHARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of two classes and many sizes, one of them unreadable."""
    root = tmp_path_factory.mktemp("images")
    numbers = np.random.default_rng(0)
    for index in range(IMAGES):
        path = root / "train" / ("cat" if index < 10 else "dog") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = tuple(numbers.integers(40, 90, 2))
        coarse = Image.fromarray(numbers.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    broken = root / "train" / "dog" / "013.png"
    broken.write_bytes(broken.read_bytes()[:100])
    return root


BROKEN = 13


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file({name: value.clone() for name, value in timm.create_model("test_vit").state_dict().items()}, path)
    return path


@pytest.fixture
def teacher(weights: Path) -> WindowTeacher:
    model = timm.create_model("test_vit")
    model.load_state_dict(load_file(weights))
    return WindowTeacher(model, alpha=0.05, beta=0.2)


@pytest.fixture
def dataset(folder: Path) -> Any:
    return create_dataset("", root=str(folder), split="train")


def build(dataset: Any, teacher: WindowTeacher, out: Path, **options: Any) -> BuildProgress:
    """Build a store, or one process's part of it."""
    report = None
    for report in build_window_store(dataset, teacher, out, **{"batch_size": 3, "workers": 0, **options}):  # noqa: B007
        pass
    assert report is not None
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def resized_images(dataset: Any, indices: list[int]) -> Tensor:
    """Resize images to 160 x 160 by PIL, in [-1, 1], without using the package."""
    images = [read_sample(dataset, i)[0].resize((160, 160), Image.Resampling.BICUBIC) for i in indices]
    arrays = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
    return torch.from_numpy(arrays.astype(np.float32) / 255 * 2 - 1)


def test_store_contains_the_teachers_windows_of_whole_images(
    dataset: Any, teacher: WindowTeacher, tmp_path: Path
) -> None:
    report = build(dataset, teacher, tmp_path / "store")
    assert (report.done, report.total) == (IMAGES, IMAGES)
    store = WindowStore(tmp_path / "store")
    assert len(store) == IMAGES
    indices = [0, 7, 8, 25]
    field = teacher(resized_images(dataset, indices))
    windows, dropped = store.lookup(indices)
    assert (windows.dtype, dropped.dtype) == (torch.uint8, torch.bool)
    assert torch.equal(windows.long(), field.windows)
    assert torch.equal(dropped, field.dropped)
    assert torch.equal(store[8][0], windows[2])
    assert torch.equal(store[8][1], dropped[2])


def test_record_is_4_bytes_and_a_bit_per_patch(dataset: Any, teacher: WindowTeacher, tmp_path: Path) -> None:
    build(dataset, teacher, tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest.grid == (10, 10)
    assert manifest.record_bytes == 4 * 100 + 13
    shards = sorted(tmp_path.glob("shard-*.bin"))
    assert [path.stat().st_size - 32 for path in shards] == [8 * 413, 8 * 413, 8 * 413, 2 * 413]
    imagenet = Manifest("", "", 0.1, 0.2, (14, 14), (224, 224), (), (), "", images=1_281_167, names="", shard=1024)
    assert imagenet.record_bytes == 809
    assert 1.03e9 < imagenet.record_bytes * imagenet.images < 1.04e9


def test_unreadable_image_is_reported_and_has_no_windows(
    dataset: Any, teacher: WindowTeacher, tmp_path: Path
) -> None:
    report = build(dataset, teacher, tmp_path)
    assert report.failed.keys() == {BROKEN}
    assert report.failed[BROKEN].startswith("dog/013.png: ")
    store = WindowStore(tmp_path)
    assert [i for i in range(IMAGES) if not store.is_readable(i)] == [BROKEN]
    with pytest.raises(ValueError, match=r"Image 13 \(dog/013.png\) has no windows: it could not be read"):
        store[BROKEN]
    with pytest.raises(ValueError, match="Image 13"):
        store.lookup([1, BROKEN])


def test_names_that_are_not_text(folder: Path, teacher: WindowTeacher, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    first = min((tmp_path / "data" / "train").rglob("*.*"))
    odd = os.fsencode(first.parent) + b"/caf\xe9" + os.fsencode(first.suffix)
    try:
        os.rename(first, odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    dataset = create_dataset("", root=str(tmp_path / "data"), split="train")
    assert build(dataset, teacher, tmp_path / "store").failed.keys() == {BROKEN}
    store = WindowStore(tmp_path / "store")
    names = image_names(dataset)
    store.check_names(names)
    assert store.names == names


def test_workers_processes_and_last_batches_do_not_change_a_byte(
    dataset: Any, teacher: WindowTeacher, tmp_path: Path
) -> None:
    build(dataset, teacher, tmp_path / "one")
    build(dataset, teacher, tmp_path / "workers", workers=2)
    reports = [build(dataset, teacher, tmp_path / "three", rank=rank, world=3) for rank in (2, 0, 1)]
    assert [report.total for report in reports] == [8, 8 + 2, 8]
    assert contents(tmp_path / "one") == contents(tmp_path / "workers") == contents(tmp_path / "three")
    assert len(contents(tmp_path / "one")) == 4 + 2


def test_store_of_some_processes_is_incomplete(dataset: Any, teacher: WindowTeacher, tmp_path: Path) -> None:
    build(dataset, teacher, tmp_path, rank=1, world=2)
    with pytest.raises(ValueError, match=r"2 of 4 shards are missing, the first is shard-000000.bin"):
        WindowStore(tmp_path)
    build(dataset, teacher, tmp_path, resume=True)  # by one process now
    build(dataset, teacher, tmp_path.with_name("whole"))
    assert contents(tmp_path) == contents(tmp_path.with_name("whole"))


def test_resume_computes_only_missing_shards(
    dataset: Any, teacher: WindowTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, teacher, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-000001.bin").unlink()
    (tmp_path / "shard-000003.bin").write_bytes(b"half")
    (tmp_path / ".shard-000002.bin.0.partial").write_bytes(b"half")
    (tmp_path / ".shard-000002.bin.5.partial").write_bytes(b"half")
    seen: list[int] = []
    forward = WindowTeacher.forward
    monkeypatch.setattr(WindowTeacher, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    report = build(dataset, teacher, tmp_path, resume=True)
    assert (sum(seen), report.done) == (8 + 2, IMAGES)
    assert contents(tmp_path) == before


COMMAND = """
import sys
from pathlib import Path
import timm, torch
from safetensors.torch import load_file
from timm.data import create_dataset
from vit_interactions.training.data import build_store
from vit_interactions.training.teacher import WindowTeacher

build_store.SHARD = {shard}
model = timm.create_model("test_vit")
model.load_state_dict(load_file({weights!r}))
teacher = WindowTeacher(model, alpha=0.05, beta=0.2)
dataset = create_dataset("", root={folder!r}, split="train")
for report in build_store.build_window_store(dataset, teacher, Path({out!r}), batch_size=3, workers=1, resume=True):
    print(report.done, flush=True)
    sys.stdin.readline()
"""


def start(folder: Path, weights: Path, out: Path) -> subprocess.Popen[str]:
    code = COMMAND.format(shard=SHARD, weights=str(weights), folder=str(folder), out=str(out))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_killed_build_resumes_to_the_same_bytes(
    folder: Path, weights: Path, dataset: Any, teacher: WindowTeacher, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    with start(folder, weights, killed) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            process.stdin.write("go on\n")
            process.stdin.flush()
            if int(line) >= SHARD + 3:
                break
        process.kill()  # in the middle of the next batch
    assert process.returncode == -9
    there = [path.name for path in killed.glob("shard-*.bin")]
    assert 1 <= len(there) < 4
    kept = {name: (killed / name).stat().st_mtime_ns for name in there}
    with pytest.raises(ValueError, match="shards are missing"):
        WindowStore(killed)
    build(dataset, teacher, killed, resume=True)
    assert {name: (killed / name).stat().st_mtime_ns for name in there} == kept
    build(dataset, teacher, tmp_path / "quiet")
    assert contents(killed) == contents(tmp_path / "quiet")


def test_partial_files_of_a_killed_build_are_ignored(
    dataset: Any, teacher: WindowTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, teacher, tmp_path / "quiet")
    # Kill the build at each rename in turn: the file that was there before must remain.
    for place in range(6):
        out, puts = tmp_path / f"killed-{place}", []

        def replace(source: Any, target: Any, puts: list[Any] = puts, place: int = place) -> None:
            if len(puts) == place:
                raise KeyboardInterrupt
            puts.append(target)
            shutil.move(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
            with pytest.raises(KeyboardInterrupt):
                build(dataset, teacher, out)
        assert len(list(out.glob("*.partial"))) == 1
        build(dataset, teacher, out, resume=True)
        assert contents(out) == contents(tmp_path / "quiet")


def test_window_coverage_belongs_to_the_store(dataset: Any, teacher: WindowTeacher, tmp_path: Path) -> None:
    build(dataset, teacher, tmp_path / "paper")
    narrow = WindowTeacher(teacher.model, teacher.alpha, teacher.beta, coverage=0.8)
    build(dataset, narrow, tmp_path / "narrow")
    store = WindowStore(tmp_path / "narrow")
    assert store.manifest.coverage == 0.8
    field = narrow(resized_images(dataset, [0, 25]))
    assert torch.equal(store.lookup([0, 25])[0].long(), field.windows)
    assert not torch.equal(WindowStore(tmp_path / "paper")[0][0], store[0][0])
    with pytest.raises(ValueError, match=r"same windows, got .*: `coverage` is 1\.0 instead of 0\.8\."):
        build(dataset, narrow, tmp_path / "paper", resume=True)
    sink_free = WindowTeacher(teacher.model, teacher.alpha, teacher.beta, exclude_sinks=True)
    with pytest.raises(ValueError, match=r"`exclude_sinks` is False instead of True\."):
        build(dataset, sink_free, tmp_path / "paper", resume=True)
    # A store with the paper's windows is the same as before there was a coverage.
    assert (
        not {"coverage", "exclude_sinks"} & json.loads((tmp_path / "paper" / "manifest.json").read_text()).keys()
    )
    assert read_manifest(tmp_path / "paper").coverage == 1.0


def test_other_store_or_folder_raises(dataset: Any, teacher: WindowTeacher, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build(dataset, teacher, store)
    with pytest.raises(ValueError, match=r"which has windows. Add `resume`, or choose another folder"):
        build(dataset, teacher, store)
    with pytest.raises(ValueError, match=r"store of the same windows, got .*: `alpha` is 0\.05 instead of 0\.1\."):
        build(dataset, WindowTeacher(teacher.model, 0.1, 0.2), store, resume=True)
    with pytest.raises(ValueError, match=r"`beta` is 0\.2 instead of 0\.0\."):
        build(dataset, WindowTeacher(teacher.model, 0.05, 0.0), store, resume=True)
    other = WindowTeacher(timm.create_model("test_vit"), 0.05, 0.2)
    with pytest.raises(ValueError, match=r"same windows, got .*: `teacher` is [0-9a-f]{64} instead"):
        build(dataset, other, store, resume=True)
    fewer = create_dataset("", root=str(folder / "train" / "dog"), split="train")
    with pytest.raises(ValueError, match="`images` is 26 instead of 16; `names` is"):
        build(fewer, teacher, store, resume=True)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"must be a new folder or a window store, got .* with a\.txt in it"):
        build(dataset, teacher, tmp_path / "letters", resume=True)
    with pytest.raises(ValueError, match=r"`rank` must be in \[0, 1\] for `world` 2, got 2"):
        build(dataset, teacher, tmp_path / "new", rank=2, world=2)
    with pytest.raises(ValueError, match="`dataset` must have images, got none"):
        build(FakeData(size=0), teacher, tmp_path / "new")
    with pytest.raises(ValueError, match="`dataset` must come without its own transform"):
        build(FakeData(size=2, transform=lambda image: image), teacher, tmp_path / "new")
    with pytest.raises(ValueError, match="`batch_size` must be >= 1, got 0"):
        build(dataset, teacher, tmp_path / "new", batch_size=0)
    assert not (tmp_path / "new").exists()


def test_unreadable_store_raises(dataset: Any, teacher: WindowTeacher, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"built by `vit-interactions windows`, got no "):
        WindowStore(tmp_path)
    build(dataset, teacher, tmp_path)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    for wrong in ({**content, "format": 1}, {"format": "2"}, {}):
        manifest.write_text(json.dumps(wrong))
        with pytest.raises(DamagedFileError, match="must be a window store of format 3, got format"):
            WindowStore(tmp_path)
    manifest.write_text(json.dumps(content))
    store = WindowStore(tmp_path)
    for index in (-1, IMAGES):
        with pytest.raises(IndexError, match=rf"`index` must be in \[0, 25\], got {index}"):
            store[index]


def test_store_checks_image_names(dataset: Any, teacher: WindowTeacher, folder: Path, tmp_path: Path) -> None:
    build(dataset, teacher, tmp_path)
    store = WindowStore(tmp_path)
    names = image_names(dataset)
    assert names[0] == "cat/000.png"
    store.check_names(names)
    assert image_names(ImageFolder(folder / "train")) == names
    with pytest.raises(ValueError, match=r"got 26 in .* and 25 in the dataset"):
        store.check_names(names[:-1])
    with pytest.raises(ValueError, match=r"image 3 is 'cat/003\.png' in .* and 'cat/other\.png' in the dataset"):
        store.check_names([*names[:3], "cat/other.png", *names[4:]])


def test_worker_processes_map_the_files_themselves(dataset: Any, teacher: WindowTeacher, tmp_path: Path) -> None:
    build(dataset, teacher, tmp_path)
    store = WindowStore(tmp_path)
    expected = store[9]
    copied = pickle.dumps(store)
    assert len(copied) < 2000
    assert torch.equal(pickle.loads(copied)[9][0], expected[0])
    assert isinstance(store._record(9), np.memmap)
    windows, _ = store[9]
    windows.zero_()  # a copy: what is on the disk stays
    assert torch.equal(store[9][0], expected[0])


def test_grids_up_to_255_per_side_fit_bytes(tmp_path: Path, teacher: WindowTeacher, dataset: Any) -> None:
    shape = {"patch_size": 1, "embed_dim": 8, "depth": 1, "num_heads": 1, "num_classes": 0}
    wide = timm.create_model("vit_tiny_patch16_224", img_size=(1, 256), **shape)
    with pytest.raises(
        ValueError, match="at most 255 patches per side, because bounds are stored as bytes, got 1 x 256"
    ):
        build(dataset, WindowTeacher(wide), tmp_path)
    fits = timm.create_model("vit_tiny_patch16_224", img_size=(1, 255), **shape)
    build(FakeData(size=2, image_size=(3, 9, 9)), WindowTeacher(fits, 1.0), tmp_path)
    windows, _ = WindowStore(tmp_path)[1]
    assert windows[0].tolist() == [0, 0, 254, 0]


def test_datasets_without_files_are_numbered(teacher: WindowTeacher, tmp_path: Path) -> None:
    fake = FakeData(size=3, image_size=(3, 40, 40))
    build(fake, teacher, tmp_path)
    store = WindowStore(tmp_path)
    assert store.names == ["0", "1", "2"]
    with pytest.raises(ValueError, match="must be indexed by image, got the stream IterableImageDataset"):
        image_names(timm.data.IterableImageDataset.__new__(timm.data.IterableImageDataset))


def test_the_command(folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--data", str(folder), "--model", "test_vit", "--checkpoint", str(weights), "--alpha", "0.05"]
    command = ["windows", *options, "--batch-size", "3", "--workers", "0", "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "one")])
    assert result.exit_code == 1, "an image is missing"
    assert "Wrote the windows of 25 of 26 images" in result.output
    assert "skipped: dog/013.png: " in result.output
    assert WindowStore(tmp_path / "one").manifest.alpha == 0.05
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, code in ("0", 0), ("1", 1):  # the last process to finish speaks for all
        monkeypatch.setenv("RANK", rank)
        assert CliRunner().invoke(app, [*command, str(tmp_path / "two")]).exit_code == code
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    again = CliRunner().invoke(app, [*command, str(tmp_path / "one")])
    assert isinstance(again.exception, ValueError)
    resumed = CliRunner().invoke(app, [*command, str(tmp_path / "one"), "--resume"])
    assert resumed.exit_code == 1


def test_command_names_rebuilt_and_skipped_files(folder: Path, weights: Path, tmp_path: Path) -> None:
    options = ["--data", str(folder), "--model", "test_vit", "--checkpoint", str(weights), "--workers", "0"]
    command = ["windows", *options, "--out", str(tmp_path / "store"), "--resume"]
    assert CliRunner().invoke(app, command).exit_code == 1
    before = contents(tmp_path / "store")
    shard = tmp_path / "store" / "shard-000002.bin"
    shard.write_bytes(shard.read_bytes()[::-1])
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert f"rebuilt: shard-000002.bin in {tmp_path / 'store'} was damaged" in again.output
    assert (
        "skipped: dog/013.png: could not be read in an earlier run. To try again, remove shard-000001.bin"
        in again.output
    )
    assert contents(tmp_path / "store") == before
    (tmp_path / "data").mkdir()
    shutil.copytree(folder / "train" / "cat", tmp_path / "data" / "train" / "cat")
    command[2], command[-2] = str(tmp_path / "data"), str(tmp_path / "whole")
    assert CliRunner().invoke(app, command).exit_code == 0
