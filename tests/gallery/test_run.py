"""Each image gets its own folder: names, kills, full disks and second runs lose nothing."""

import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
from torch import nn

from tests.helpers.hostile_names import PIECES
from vit_interactions.explain.settings import Settings
from vit_interactions.explorer import pages
from vit_interactions.gallery import replace
from vit_interactions.gallery import run as gallery_run
from vit_interactions.gallery.explanation import Explanation
from vit_interactions.gallery.folder import belongs_to, is_complete, is_results, other_files
from vit_interactions.gallery.run import ExplainResult, describe_model, explain_images
from vit_interactions.utilities.files import WriteError
from vit_interactions.utilities.names import collision_key


class Killed(BaseException):
    """Simulates the end of the process."""


class Figure:
    """A figure that writes a number instead of drawing."""

    def __init__(self, value: float) -> None:
        self.value = value

    def savefig(self, path: Path, dpi: int) -> None:
        path.write_bytes(f"{self.value} {dpi}".encode())


def explained(model: object, image: Path, settings: Settings) -> Explanation:
    """Return a fake explanation that shows alpha and the content of the image."""
    value = settings.alpha + len(image.read_bytes())
    figures: Any = {"raw_attention": Figure(value), "field": Figure(-value)}
    return Explanation({"raw_attention": np.full((2, 2), value)}, figures, {"failed": {}, "unsupported": {}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace models and figures by fakes."""
    monkeypatch.setattr(gallery_run, "explain_image", explained)
    monkeypatch.setattr(gallery_run, "read_image", lambda path: path)
    monkeypatch.setattr(gallery_run, "prepare", lambda image, model: image)
    monkeypatch.setattr(gallery_run, "describe_model", lambda model: {"weights": "0"})
    monkeypatch.setattr(gallery_run, "versions", dict)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def explain(images: list[Path], out: Path, *, alpha: float = 0.25, resume: bool = False) -> ExplainResult:
    report = ExplainResult()
    settings = Settings("model", methods=("raw_attention",), alpha=alpha)
    for report in explain_images(nn.Identity(), images, settings, out, resume=resume):  # noqa: B007
        pass
    return report


def image(path: Path, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def value(folder: Path) -> float:
    """Return the number in a folder, which is the same in all its files."""
    assert is_complete(folder)
    with np.load(folder / "maps.npz") as arrays:
        found = float(arrays["raw_attention"].mean())
    assert (folder / "raw_attention.png").read_bytes() == f"{found} 120".encode()
    assert (folder / "field.png").read_bytes() == f"{-found} 120".encode()
    return found


def hidden(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if path.name.startswith(".")]


def file_names(count: int) -> list[str]:
    """Return hostile file names that the file system accepts."""
    draw = random.Random(1)
    pieces = [piece for piece in PIECES if "/" not in piece] + [
        "..jpg",
        "...jpg",
        "x" * 247 + "1",
        "x" * 247 + "2",
    ]
    drawn = [
        "".join(draw.choices(pieces, k=draw.randint(1, 3))) + draw.choice([".jpg", ".png"]) for _ in range(count)
    ]
    return [name for name in drawn if len(os.fsencode(name)) < 256]


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Create an output folder among user files, and check at the end that they are unchanged."""
    out = tmp_path / "home" / "out"
    theirs = {
        out.parent / "thesis.txt": "a",
        out / "notes.txt": "b",
        out / "theirs" / "data.csv": "c",
        out / ".mine.partial" / "data.csv": "d",
        out / ".mine.replaced" / "data.csv": "e",
    }
    for path, text in theirs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield out
    assert {path: path.read_text() for path in theirs} == theirs
    assert [path.name for path in out.parent.iterdir() if path.name not in ("out", "thesis.txt")] == []


def check_all_there(out: Path, images: list[Path], report: ExplainResult) -> None:
    assert report.failed == {}
    names = list(report.done.values())
    assert list(report.done) == list(map(str, images))
    assert len({collision_key(name) for name in names}) == len(images)
    for path, name in report.done.items():
        assert (out / name).parent.resolve() == out.resolve()
        assert (out / name).resolve().parent == out.resolve()
        assert value(out / name) == 0.25 + Path(path).stat().st_size


def test_images_with_any_names_get_separate_folders(tmp_path: Path, precious: Path) -> None:
    for number, name in enumerate(file_names(60)):
        other = file_names(120)[-1 - number]
        images = [
            image(tmp_path / "a" / name, 3),
            image(tmp_path / "b" / other, 4),
            image(tmp_path / "c" / name, 5),
        ]
        together = precious / f"together{number}"
        check_all_there(together, images, explain(images, together))
        one_by_one = precious / f"single{number}"
        single = ExplainResult()
        for path in images:
            single.done |= explain([path], one_by_one).done
        check_all_there(one_by_one, images, single)
        assert set(json.loads((one_by_one / "manifest.json").read_text())["done"]) == set(map(str, images))
        for folder in (together, one_by_one):
            assert hidden(folder) == []
            assert len(list(folder.iterdir())) == 4
            shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")
        shutil.rmtree(tmp_path / "c")


@pytest.mark.parametrize("name", ["...jpg", "..jpg", "manifest.json.jpg", ".hidden.jpg", "x" * 251 + ".jpg"])
def test_hostile_names_neither_remove_nor_hide_results(name: str, tmp_path: Path, precious: Path) -> None:
    images = [image(tmp_path / "cat.jpg", 2), image(tmp_path / name, 3)]
    for _ in range(2):
        check_all_there(precious, images, explain(images, precious))


def test_images_with_the_same_name_keep_their_folders_across_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    a, b, c = (image(tmp_path / folder / "cat.jpg", 7) for folder in "abc")  # with the same content
    assert explain([a], out).done == {str(a): "cat"}
    assert explain([b], out).done == {str(b): "cat-2"}
    assert explain([c, b, a], out).done == {str(c): "cat-3", str(b): "cat-2", str(a): "cat"}
    image(b, 9)
    assert explain([b], out, resume=True).done == {str(b): "cat-2"}
    assert [value(out / name) for name in ("cat", "cat-2", "cat-3")] == [7.25, 9.25, 7.25]
    moved = b.rename(tmp_path / "moved.jpg").rename(image(tmp_path / "d" / "cat.jpg"))
    assert explain([moved], out).done == {str(moved): "cat-2"}
    assert sorted(path.name for path in out.iterdir()) == ["cat", "cat-2", "cat-3", "manifest.json"]


def test_failed_image_does_not_reserve_its_name(tmp_path: Path) -> None:
    out, gone, there = tmp_path / "out", tmp_path / "a" / "cat.jpg", image(tmp_path / "b" / "cat.jpg")
    report = explain([gone, there], out)
    assert (list(report.failed), report.done) == ([str(gone)], {str(there): "cat"})
    assert explain([image(gone, 5), there], out).done == {str(gone): "cat-2", str(there): "cat"}


def calls(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call a function before every call that changes files."""

    def announced(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            before(name)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("rename", "unlink", "rmdir", "mkdir", "open", "write_bytes"):
        announced(Path, name)
    announced(os, "replace")
    announced(np, "savez_compressed")


def test_kill_at_any_step_of_a_replacement_is_repaired(tmp_path: Path) -> None:
    cat = image(tmp_path / "cat.jpg")
    steps = 0
    for death in range(1000):
        out = tmp_path / f"out{death}"
        explain([cat], out, alpha=0.25)
        (out / "cat" / "mine.txt").write_text("the user's own")
        steps = 0

        def die(name: str, death: int = death) -> None:
            nonlocal steps
            steps += 1
            if steps > death:
                raise Killed(name)  # during cleanup too, which a killed process never runs

        with pytest.MonkeyPatch.context() as patch:
            calls(patch, die)
            with suppress(Killed):
                explain([cat], out, alpha=0.5)
        kept = [folder for folder in out.iterdir() if folder.is_dir() and is_complete(folder)]
        assert kept, "neither the old results nor the new ones are whole"
        assert explain([image(tmp_path / "dog.jpg")], out).failed == {}  # repaired even by a run of another image
        assert hidden(out) == []
        assert value(out / "cat") in (1.25, 1.5)
        assert (out / "cat" / "mine.txt").read_text() == "the user's own"
        assert explain([cat], out, alpha=0.5, resume=True).done == {str(cat): "cat"}
        assert value(out / "cat") == 1.5
        assert sorted(path.name for path in out.iterdir()) == ["cat", "dog", "manifest.json"]
        if steps <= death:
            break
    assert 20 < steps < 1000


def test_files_of_the_user_are_never_removed(tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    explain([cat], out)
    (out / "cat" / "notes.txt").write_text("mine")
    (out / "cat" / "folder").mkdir()
    (out / "cat" / "folder" / "more.txt").write_text("mine too")
    assert {path.name for path in other_files(out / "cat")} == {"notes.txt", "folder"}
    assert explain([cat], out, alpha=0.5).failed == {}
    assert value(out / "cat") == 1.5
    assert (out / "cat" / "notes.txt").read_text() == "mine"
    assert (out / "cat" / "folder" / "more.txt").read_text() == "mine too"


def test_user_file_with_the_name_of_a_result_is_kept(tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    explain([cat], out)
    manifest = json.loads((out / "cat" / "manifest.json").read_text())
    (out / "cat" / "manifest.json").write_text(json.dumps({**manifest, "figures": ["raw_attention.png"]}))
    report = explain([cat], out, alpha=0.5)
    assert "field.png has the name of a result. Move it" in report.failed[str(cat)]
    assert hidden(out) == []
    assert (out / "cat" / "field.png").exists()


@pytest.mark.parametrize("ending", [".partial", ".replaced"])
def test_hidden_user_folder_fails_one_image_only(ending: str, tmp_path: Path) -> None:
    out, cat, dog = tmp_path / "out", image(tmp_path / "cat.jpg"), image(tmp_path / "dog.jpg")
    explain([cat], out)
    theirs = image(out / f".cat{ending}" / "data.csv")
    report = explain([cat, dog], out, alpha=0.5)
    assert "has the name of a temporary folder of this run. Move it" in report.failed[str(cat)]
    assert theirs.exists()
    assert (value(out / "cat"), value(out / "dog")) == (1.25, 1.5)


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "folder", "manifest"])
@pytest.mark.parametrize("name", ["maps.npz", "field.png"])
def test_resume_replaces_damaged_results(harm: str, name: str, tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    explain([cat], out)
    file = out / "cat" / name
    whole = file.read_bytes()
    made = file.stat().st_mtime_ns
    explain([cat], out, resume=True)
    assert file.stat().st_mtime_ns == made
    if harm == "cut":
        file.write_bytes(whole[:-1])
    elif harm == "changed":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif harm == "manifest":
        (out / "cat" / "manifest.json").write_text('{"sha256": "", "settings": ""}')
    else:
        file.unlink()
    if harm == "folder":
        file.mkdir()
    report = explain([cat], out, resume=True)
    if harm in ("folder", "manifest"):  # not written by the run, or without its image
        assert report.failed or report.done == {str(cat): "cat-2"}
    else:
        assert report.done == {str(cat): "cat"}
        assert value(out / "cat") == 1.25


def test_resume_requires_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    explain([cat], out)
    for facts in ({"weights": "1"}, {"weights": "1", "preprocessing": "other"}):
        made = (out / "cat" / "maps.npz").stat().st_mtime_ns
        monkeypatch.setattr(gallery_run, "describe_model", lambda model, facts=facts: facts)
        explain([cat], out, resume=True)
        assert (out / "cat" / "maps.npz").stat().st_mtime_ns != made
        assert json.loads((out / "cat" / "manifest.json").read_text())["model"] == facts


def test_models_with_the_same_weights_and_other_options_differ() -> None:
    model = timm.create_model("test_vit")
    facts = describe_model(model)
    twin = timm.create_model("test_vit")
    twin.load_state_dict(model.state_dict())
    assert describe_model(twin) == facts
    twin.blocks[0].attn.scale = 1.0
    other = describe_model(twin)
    assert {key for key in facts if other[key] != facts[key]} == {"options"}
    twin.pretrained_cfg = {**twin.pretrained_cfg, "mean": (0.0, 0.0, 0.0)}
    other = describe_model(twin)
    assert {key for key in facts if other[key] != facts[key]} == {"options", "preprocessing"}


def test_hostile_manifests_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    target = image(tmp_path / "target")
    explain([cat], out)
    manifest = json.loads((out / "cat" / "manifest.json").read_text())
    files = {**manifest["files"], "../../target": None}
    for figures in (["../../target"], 3, None, [["x"]]):
        content = {**manifest, "figures": figures, "files": files}
        (out / "cat" / "manifest.json").write_text(json.dumps(content))
        assert not is_complete(out / "cat")
        explain([cat], out, resume=True)
        assert target.exists()
    shutil.rmtree(out)
    for done in ({str(cat): "../.."}, {str(cat): ["x"]}, 3):
        out.mkdir(exist_ok=True)
        (out / "manifest.json").write_text(json.dumps({"done": done}))
        assert explain([cat], out).failed == {}
    assert target.exists()


def test_links_are_not_results(tmp_path: Path) -> None:
    explain([image(tmp_path / "cat.jpg")], tmp_path / "real")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat").symlink_to(tmp_path / "real" / "cat")
    assert not is_results(tmp_path / "out" / "cat")
    report = explain([tmp_path / "cat.jpg"], tmp_path / "out", alpha=0.5)
    assert "is not a folder of explanations" in report.failed[str(tmp_path / "cat.jpg")]
    assert value(tmp_path / "real" / "cat") == 1.25
    assert belongs_to(tmp_path / "real" / "cat", tmp_path / "cat.jpg", "")


def test_repair_keeps_an_old_folder_without_replacement(tmp_path: Path) -> None:
    out = tmp_path / "out"
    explain([image(tmp_path / "cat.jpg")], out)
    (out / "cat").rename(out / ".cat.replaced")
    replace.repair(out)
    assert value(out / "cat") == 1.25
    assert hidden(out) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_full_disk_ends_the_run_and_keeps_complete_folders(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    images = [image(tmp_path / name) for name in ("cat.jpg", "dog.jpg", "owl.jpg")]
    explain(images[:2], out)
    tried: list[Path] = []

    def full(figure: Figure, path: Path, dpi: int) -> None:
        tried.append(path)
        path.write_bytes(b"hal")
        if "dog" in str(path):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(
        WriteError, match=rf"dog could not be written: {os.strerror(code)}\. (Free|Choose)"
    ) as caught:
        explain(images, out, alpha=0.5)
    assert caught.value.errno == code
    assert len(tried) == 3  # two figures of the first, one of the second, none of the third
    assert sorted(path.name for path in out.iterdir()) == ["cat", "dog", "manifest.json"]
    assert value(out / "dog") == 1.25


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_reported(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(tmp_path / f"{name}.jpg") for name in ("cat", "dog")]
    assert len(explain(images[:1], small_disk / "out").done) == 1
    large = {"x": np.random.default_rng(0).random(20_000)}
    monkeypatch.setattr(gallery_run, "explain_image", lambda *_: Explanation(large))
    with pytest.raises(WriteError, match=r"dog could not be written: No space left on device\. Free some space"):
        explain(images[1:], small_disk / "out")
    assert sorted(path.name for path in (small_disk / "out").iterdir()) == ["cat", "manifest.json"]
    assert value(small_disk / "out" / "cat") == 1.25


@pytest.fixture
def quick_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    head = '<meta name="generator" content="vit_interactions 1"><meta name="image" content="{}">{}'
    monkeypatch.setattr(pages, "read_image", lambda path: path)
    monkeypatch.setattr(pages, "prepare", lambda image, model: image)
    monkeypatch.setattr(
        pages, "page_data", lambda model, image, **_: SimpleNamespace(size=len(image.read_bytes()))
    )
    monkeypatch.setattr(pages, "render", lambda found, source, **_: head.format(source, found.size))


def write(images: list[Path], out: Path) -> pages.Pages:
    steps = pages.write_pages(nn.Identity(), images, out, name="", named=False, alpha=0.1, beta=0.2)
    return list(steps)[-1]


@pytest.mark.usefixtures("quick_pages")
def test_images_with_any_names_get_separate_pages(tmp_path: Path, precious: Path) -> None:
    for number, name in enumerate(file_names(80)):
        images = [image(tmp_path / folder / name, size) for folder, size in (("a", 3), ("b", 4))]
        for runs in ([images], [images[:1], images[1:]], [images[1:], images]):
            out = precious / f"pages{number}"
            found: dict[str, Path] = {}
            for run in runs:
                found |= write(run, out).done
            assert set(found) == set(map(str, images))
            assert {path.read_text()[-1] for path in found.values()} == {"3", "4"}
            assert {path.resolve().parent for path in found.values()} == {out.resolve()}
            assert sorted(out.iterdir()) == sorted(found.values())
            shutil.rmtree(out)
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")


@pytest.mark.usefixtures("quick_pages")
def test_a_page_replaces_its_own_image_only(tmp_path: Path) -> None:
    out, a, b = tmp_path / "out", image(tmp_path / "a" / "cat.jpg", 1), image(tmp_path / "b" / "cat.jpg", 1)
    for _ in range(2):
        assert write([a], out).done == {str(a): out / "cat.html"}
        assert write([b], out).done == {str(b): out / "cat-2.html"}
    (out / "dog.html").write_text("mine")
    failed = write([image(tmp_path / "dog.jpg"), b], out).failed
    assert "dog.html exists and is not an explorer page. Move it" in failed[str(tmp_path / "dog.jpg")]
    assert (out / "dog.html").read_text() == "mine"


@pytest.mark.usefixtures("quick_pages")
def test_partial_page_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg", 1)
    out.mkdir()
    for name in (".dog.html.partial", ".mine.partial"):
        (out / name).write_text("half")
    write([cat], out)
    assert sorted(path.name for path in out.iterdir()) == [".mine.partial", "cat.html"]


def test_error_of_an_unreadable_image_mentions_the_image(tmp_path: Path) -> None:
    broken = tmp_path / "cat.jpg"
    broken.symlink_to(tmp_path / "gone.jpg")
    run = explain([broken, image(tmp_path / "dog.jpg")], tmp_path / "out")
    assert run.failed[str(broken)].startswith("`image` must be a file, got a broken link to ")
