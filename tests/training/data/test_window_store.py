"""Damaged or edited window stores: errors that name the file, and shards rebuilt on resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.datasets import FakeData

from vit_interactions.training.data import build_store
from vit_interactions.training.data.build_store import (
    BuildProgress,
    build_window_store,
    make_manifest,
    transform_options,
)
from vit_interactions.training.data.images import image_names
from vit_interactions.training.data.window_store import WindowStore, pack, unpack
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.json_files import DamagedFileError

IMAGES = 26


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards small, so that a few images fill several."""
    monkeypatch.setattr(build_store, "SHARD", 8)


def create_teacher(alpha: float = 0.05) -> WindowTeacher:
    torch.manual_seed(3)
    return WindowTeacher(timm.create_model("test_vit"), alpha=alpha, beta=0.2)


@pytest.fixture
def teacher() -> WindowTeacher:
    return create_teacher()


@pytest.fixture(scope="module")
def dataset() -> FakeData:
    return FakeData(size=IMAGES, image_size=(3, 20, 20))


@pytest.fixture(scope="module")
def finished(dataset: FakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a store, and one with other windows, in a folder."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_store, "SHARD", 8)
        build(dataset, create_teacher(), folder / "store")
        build(dataset, create_teacher(0.06), folder / "other")
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """Copy the two stores, and return the first."""
    return shutil.copytree(finished, tmp_path / "stores") / "store"


def build(dataset: Any, teacher: WindowTeacher, out: Path, **options: Any) -> BuildProgress:
    """Build a whole store in this process."""
    return list(build_window_store(dataset, teacher, out, workers=0, **options))[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Any] = {
    "flipped": lambda path: flip(path, 1000),
    "a flipped checksum": lambda path: flip(path, -1),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "another shard": lambda path: path.write_bytes((path.parent / "shard-000002.bin").read_bytes()),
    "of other windows": lambda path: path.write_bytes((path.parents[1] / "other" / path.name).read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shard_is_named_and_rebuilt(
    damage: str, dataset: Any, teacher: WindowTeacher, store: Path
) -> None:
    before = contents(store)
    path = store / "shard-000001.bin"
    DAMAGE[damage](path)
    with pytest.raises(DamagedFileError) as found:
        WindowStore(store)
    assert str(found.value) == (
        f"{path} is damaged, or does not belong to its manifest.json: its length or checksum differs. "
        "Rebuild it with `vit-interactions windows --resume`."
    )
    report = build(dataset, teacher, store, resume=True)
    assert report.damaged == [path.name]
    assert contents(store) == before


@pytest.mark.parametrize("content", [b"", b"no gzip", None], ids=str)
def test_damaged_list_of_names_is_named_and_rebuilt(
    content: bytes | None, dataset: Any, teacher: WindowTeacher, store: Path
) -> None:
    before = contents(store)
    path = store / "names.txt.gz"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(DamagedFileError, match=r"names\.txt\.gz is missing or damaged\. Rebuild it with"):
        _ = WindowStore(store).names
    assert build(dataset, teacher, store, resume=True).damaged == ["names.txt.gz"]
    assert contents(store) == before


def test_folder_named_like_a_shard_is_named_and_kept(dataset: Any, teacher: WindowTeacher, store: Path) -> None:
    path = store / "shard-000001.bin"
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"shard-000001\.bin must be a file, got a folder\. Move it away"):
        build(dataset, teacher, store, resume=True)
    assert path.is_dir()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("alpha", "x", "`alpha` must be a number, got 'x'"),
        ("alpha", 7, "`alpha` must be in [0, 1], got 7"),
        ("beta", float("nan"), "`beta` must be a number, got nan"),
        ("grid", [10], "`grid` must be two whole numbers in [1, 255], got [10]"),
        ("grid", [10, 256], "`grid` must be two whole numbers in [1, 255], got [10, 256]"),
        ("image_size", [160, "x"], "`image_size` must be two whole numbers >= 1"),
        ("mean", ["x"], "`mean` must be a list of numbers, got ['x']"),
        ("images", -1, "`images` must be >= 1, got -1"),
        ("shard", 0, "`shard` must be >= 1, got 0"),
        ("teacher", ..., "has no `teacher`"),
        ("more", 1, "has an unknown key `more`"),
    ],
)
def test_an_edited_manifest_is_named_with_its_key(
    key: str, value: Any, words: str, dataset: Any, teacher: WindowTeacher, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    names = image_names(dataset)
    content = json.loads(make_manifest(names, teacher, transform_options(teacher)).as_json())
    changed = {name: part for name, part in {**content, key: value}.items() if part is not ...}
    path.write_text(json.dumps(changed))
    with pytest.raises(DamagedFileError) as found:
        WindowStore(tmp_path)
    assert str(found.value).startswith(str(path))
    assert words in str(found.value)
    assert str(found.value).endswith("Restore the file, or build the store again in another folder.")


def test_edited_manifest_does_not_match_its_shards(store: Path) -> None:
    path = store / "manifest.json"
    whole = path.read_text()
    for before, after in (('"alpha": 0.05', '"alpha": 0.06'), ('"images": 26', '"images": 25')):
        path.write_text(whole.replace(before, after))
        with pytest.raises(DamagedFileError, match=r"does not belong to its manifest\.json"):
            WindowStore(store)


def test_teacher_with_another_architecture_raises(dataset: Any, teacher: WindowTeacher, store: Path) -> None:
    attention: Any = teacher.model.blocks[0].attn  # type: ignore[index]
    attention.num_heads, attention.head_dim = attention.num_heads * 2, attention.head_dim // 2
    with pytest.raises(ValueError, match=r"store of the same windows, got .*: `architecture` is"):
        build(dataset, teacher, store, resume=True)


def test_packing_keeps_all_bounds_and_bits() -> None:
    windows = torch.randint(0, 255, (3, 35, 4))
    dropped = torch.rand(3, 35) < 0.5
    records = pack(windows, dropped)
    assert records.shape == (3, 4 * 35 + 5)
    assert records[1, 4 * 7 + 2] == windows[1, 7, 2]
    assert records[2, 140 + 1] == sum(int(dropped[2, 8 + bit]) << (7 - bit) for bit in range(8))
    again = unpack(records, 35)
    assert torch.equal(again[0].long(), windows)
    assert torch.equal(again[1], dropped)
