"""Comparisons whose files are damaged or edited, or that lack something that was asked for."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import run, set_field
from vit_interactions.compare import records
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.page import report
from vit_interactions.explorer.pages import Pages
from vit_interactions.utilities.json_files import DamagedFileError

METHODS = ["raw_attention", "random_map"]
METRICS = ["deletion", "pointing_game"]
SIZE = 64


def make_model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, img_size=SIZE, **options).eval()


def compare(root: Path, **options: Any) -> Comparison:
    common: dict[str, Any] = {"methods": METHODS, "metrics": METRICS, "boxes": root / "boxes.csv"}
    return vi.compare(
        [root / "images"], **{"model": {"vit": make_model()}, "out": root / "out", **common, **options}
    )


def make_root(tmp_path: Path) -> Path:
    """Make two images with boxes and masks."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.fromarray(random.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(np.full((80, 70), 255, np.uint8)).save(tmp_path / f"masks/{name}.png")
    rows = [f"{name}.png,10,10,60,70\n" for name in "ab"]
    (tmp_path / "boxes.csv").write_text("file,left,top,right,bottom\n" + "".join(rows))
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images and their comparison, which no test changes."""
    root = make_root(tmp_path_factory.mktemp("finished"))
    compare(root)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a folder with images and their comparison."""
    return shutil.copytree(finished, tmp_path / "root")


def quality(comparison: Comparison) -> pd.DataFrame:
    """Return the values that are the same in each run."""
    table = comparison.table()
    return table[table["metric"].isin(METRICS)].reset_index(drop=True)


def archive(**arrays: Any) -> bytes:
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


class Code:
    """A pickle that would make a file when it is loaded."""

    def __reduce__(self) -> Any:
        return open, ("executed", "w")


def objects() -> bytes:
    values = np.empty(1, object)
    values[0] = Code()
    return archive(**{"map/raw_attention": values})


MAPS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "flipped": lambda content: content[:150] + bytes([content[150] ^ 1]) + content[151:],
    "text": lambda content: b"hello",
    "pickled": lambda content: pickle.dumps(Code()),
    "objects": lambda content: objects(),
    "nan": lambda content: archive(**{"map/raw_attention": np.full((4, 4), np.nan)}),
    "missing": lambda content: archive(),
}
NUMBERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "null": lambda content: b"null",
    "truncated": lambda content: content[:-3],
    "deep": lambda content: b"[" * 200_000,
    "digits": lambda content: b'{"a": ' + b"9" * 5000 + b"}",
    "bytes": lambda content: b"\xff\xfe",
    "another value": lambda content: content.replace(b"0.", b"1.", 1),
    "NaN": lambda content: content.replace(b'"window_share": null', b'"window_share": NaN'),
}


@pytest.mark.parametrize(
    ("ending", "damage"),
    [pytest.param(".npz", change, id=f"maps {name}") for name, change in MAPS.items()]
    + [pytest.param(".json", change, id=f"numbers {name}") for name, change in NUMBERS.items()],
)
def test_a_damaged_record_is_named_and_measured_again(
    ending: str,
    damage: Callable[[bytes], bytes],
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(root)
    wanted = Comparison.open(root / "out")
    values, maps = quality(wanted), wanted.maps("vit", "a")
    path = root / "out" / "records" / "vit" / f"a{ending}"
    assert damage(path.read_bytes()) != path.read_bytes()
    path.write_bytes(damage(path.read_bytes()))
    for read in (Comparison.table, Comparison.notes, lambda opened: report(opened, root / "report.html")):
        with pytest.raises(DamagedFileError) as found:
            read(Comparison.open(root / "out"))
        assert str(path) in str(found.value)
        assert str(found.value).endswith("Resume the comparison to measure it again.")
        assert "\n" not in str(found.value)
    capsys.readouterr()
    resumed = compare(root, resume=True)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if str(path) in line and line.startswith("measuring again: ")] == said
    pd.testing.assert_frame_equal(quality(resumed), values)
    for method, values_of_map in resumed.maps("vit", "a").items():
        np.testing.assert_array_equal(values_of_map, maps[method])
    assert not (root / "executed").exists()


def test_objects_in_maps_are_not_loaded_even_where_the_checksum_fits(root: Path) -> None:
    file = root / "out" / "records" / "vit" / "a.npz"
    record = records.Record({}, values={"raw_attention": {}})
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged \(ValueError\)\. Resume"):
        records.load_arrays(record, file, objects())
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_a_folder_instead_of_a_record_is_named_and_kept(name: str, root: Path) -> None:
    path = root / "out" / "records" / "vit" / name
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} must be a file, got a folder\. Move it away and resume"):
        compare(root, resume=True)
    with pytest.raises(DamagedFileError, match=rf"{name} must be a file, got a folder"):
        Comparison.open(root / "out").table()
    assert (path / "mine.txt").read_text() == "mine"


def test_a_record_of_another_image_or_comparison_is_measured_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = quality(Comparison.open(root / "out"))
    folder = root / "out" / "records" / "vit"
    compare(root, alpha=0.5, out=root / "other")
    for ending in (".json", ".npz"):
        (folder / f"a{ending}").write_bytes((folder / f"b{ending}").read_bytes())
        (folder / f"b{ending}").write_bytes((root / "other" / "records" / "vit" / f"b{ending}").read_bytes())
    with pytest.raises(DamagedFileError, match=r"a\.json is damaged or was edited"):
        Comparison.open(root / "out").table()
    pd.testing.assert_frame_equal(quality(compare(root, resume=True)), wanted)
    assert "measuring again" in capsys.readouterr().err


def edited(content: dict[str, Any], keys: str, value: Any) -> dict[str, Any]:
    """Return the content with another value at a path of keys; without the key if the value is `...`."""
    changed: Any = json.loads(json.dumps(content))
    set_field(changed, keys, value)
    return dict(changed)


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ("settings", ..., "has no `settings`"),
        ("settings", 3, "`settings` must be an object, got 3"),
        ("settings/alpha", "x", "`settings.alpha` must be a number, got 'x'"),
        ("settings/alpha", True, "`settings.alpha` must be a number, got True"),
        ("settings/alpha", float("nan"), "`settings.alpha` must be a number, got nan"),
        ("settings/seed", 0.5, "`settings.seed` must be a whole number, got 0.5"),
        ("settings/methods", [], "`settings.methods` must be an object, got []"),
        ("settings/methods/raw_attention", 1, "`settings.methods.raw_attention` must be an object, got 1"),
        ("settings/metrics/deletion/direction", ..., "has no `settings.metrics.deletion.direction`"),
        ("versions", None, "`versions` must be an object, got None"),
        ("models", {}, "`models` must have at least one, got none"),
        ("models/vit", [], "`models.vit` must be an object, got []"),
        ("models/vit/folder", "../../vit", "`models.vit.folder` must be the name of a file, got '../../vit'"),
        ("images", [], "`images` must have at least one, got none"),
        ("images/1/key", ..., "has no `images[1].key`"),
        ("images/0/key", "/etc/x", "`images[0].key` must be the name of a file, got '/etc/x'"),
        ("images/0/boxes", [3], "`images[0].boxes[0]` must be an object, got 3"),
        ("images/0/mask", 3, "`images[0].mask` must be a string or null, got 3"),
    ],
)
def test_an_edited_manifest_is_named_with_its_key(keys: str, value: Any, words: str, root: Path) -> None:
    path = root / "out" / "comparison.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), keys, value)))
    before = path.read_text()
    for read in (lambda: Comparison.open(root / "out"), lambda: compare(root, resume=True)):
        with pytest.raises(DamagedFileError) as found:
            read()
        assert str(found.value).startswith(str(path))
        assert f"{words}. Restore the file, or compare again into another folder." in str(found.value)
    assert path.read_text() == before


@pytest.mark.parametrize(("keys", "value", "found"), [("format", 3, "3"), ("format", ..., "1")])
def test_a_manifest_of_another_format_is_named(keys: str, value: Any, found: str, root: Path) -> None:
    path = root / "out" / "comparison.json"
    content = edited(json.loads(path.read_text()), keys, value)
    if value is ...:  # of the first format, which had no number
        content["photographs"] = content.pop("images")
    path.write_text(json.dumps(content))
    for read in (lambda: Comparison.open(root / "out"), lambda: compare(root, resume=True)):
        with pytest.raises(
            DamagedFileError, match=rf"comparison\.json must have format 2, got {found} of another version"
        ):
            read()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 200_000], ids=str)
def test_a_manifest_that_is_not_json_is_named(content: bytes, root: Path) -> None:
    (root / "out" / "comparison.json").write_bytes(content)
    for read in (lambda: Comparison.open(root / "out"), lambda: compare(root, resume=True)):
        with pytest.raises(DamagedFileError, match=r"comparison\.json (is damaged|must contain a JSON object)"):
            read()


def test_a_manifest_with_another_value_does_not_fit_its_records(root: Path) -> None:
    path = root / "out" / "comparison.json"
    path.write_text(path.read_text().replace('"alpha": 0.1', '"alpha": 0.2'))
    with pytest.raises(DamagedFileError, match=r"a\.json was measured with other settings, versions or weights"):
        Comparison.open(root / "out").table()


def test_resuming_removes_what_a_kill_left_half_written(root: Path) -> None:
    stale = [
        root / "out" / ".comparison.json.partial",
        root / "out" / "records" / "vit" / ".a.npz.partial",
        root / "out" / "records" / "vit" / ".gone.json.partial",
    ]
    mine = root / "out" / "records" / "vit" / "mine.partial"
    for path in (*stale, mine):
        path.write_bytes(b"half")
    compare(root, resume=True)
    assert [path for path in stale if path.exists()] == []
    assert mine.exists()


def other_heads(model: nn.Module) -> None:
    attention: Any = model.blocks[0].attn  # type: ignore[index]
    attention.num_heads, attention.head_dim = attention.num_heads * 2, attention.head_dim // 2


def other_mean(model: nn.Module) -> None:
    cfg: Any = model.pretrained_cfg
    model.pretrained_cfg = {**cfg, "mean": (0.50001, 0.5, 0.5)}


def other_crop(model: nn.Module) -> None:
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_pct": 0.5}  # type: ignore[dict-item]


def other_interpolation(model: nn.Module) -> None:
    model.pretrained_cfg = {**model.pretrained_cfg, "interpolation": "nearest"}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (other_heads, "architecture"),
        (other_mean, "normalization"),
        (other_crop, "preprocessing"),
        (other_interpolation, "preprocessing"),
    ],
)
def test_resuming_with_other_model_options_raises(
    change: Callable[[nn.Module], None], word: str, root: Path
) -> None:
    compare(root, resume=True)  # the same model, made again
    model = make_model()
    change(model)
    with pytest.raises(ValueError, match=f"started with other models: vit {word} was "):
        compare(root, model={"vit": model}, resume=True)


# Exit codes.


def fake_report(comparison: Comparison, path: Path) -> Path:
    path.write_text("report")
    return path


@pytest.fixture
def command(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a command line, for which no pages are made."""
    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", lambda *_, **__: iter([Pages()]))
    monkeypatch.setattr(sys.modules[report.__module__], "report", fake_report)
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), root / "weights.safetensors")
    model = ["--model", "test_vit", "--checkpoint", root / "weights.safetensors"]
    return ["compare", root / "images", *model, "--method", "raw_attention", "--out", root / "new"]


def test_metrics_asked_for_without_any_value_are_an_error(
    root: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "boxes.csv").write_text("file,left,top,right,bottom,index\na.png,1,1,60,60,4\nb.png,1,1,60,60,4\n")
    boxes = ["--boxes", root / "boxes.csv", "--target", "2"]
    asked = ["--metric", "pointing_game"]
    assert run(*command, *boxes, *asked) == 1
    assert "failed: no metric has a value under test_vit" in capsys.readouterr().err
    assert run(*command, *boxes, *asked, "--metric", "deletion", "--out", root / "two") == 1
    assert "failed: pointing_game without any value under test_vit" in capsys.readouterr().err
    assert run(*command, *boxes, "--out", root / "three") == 0, "metrics not named may be unsupported"


@pytest.mark.parametrize("damage", ["truncated", "size"])
def test_damaged_masks_are_an_error(
    damage: str, root: Path, command: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = root / "masks" / "a.png"
    whole = mask.read_bytes()
    if damage == "truncated":
        mask.write_bytes(whole[:-30])
    else:
        Image.new("L", (7, 8), 255).save(mask)
    masks = ["--masks", root / "masks", "--metric", "pointing_game"]
    assert run(*command, *masks) == 1
    assert f"{mask}" in capsys.readouterr().err
    mask.write_bytes(whole)
    assert run(*command, *masks, "--resume") == 0


def test_lost_explorer_pages_are_an_error(
    root: Path, command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> Any:
        yield Pages(failed={"a.png": "no space left"})

    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", lost)
    assert run(*command, "--metric", "deletion") == 1
    assert "no explorer page of a.png: no space left" in capsys.readouterr().err


def test_a_model_without_explorer_is_a_note(
    root: Path, command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise vi.UnsupportedModelError("two towers")
        yield

    monkeypatch.setattr(sys.modules[Pages.__module__], "write_pages", refused)
    assert run(*command, "--metric", "deletion") == 0
    assert "note: no explorer pages: two towers" in capsys.readouterr().err
