"""Each image gets its own folder: names, kills, full disks and second runs lose nothing."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm

from tests.helpers.quick_gallery import Figure, explain, file_names, hidden, image, value
from vit_interactions.gallery import run as gallery_run
from vit_interactions.gallery.explanation import Explanation
from vit_interactions.gallery.folder import other_files
from vit_interactions.gallery.run import ExplainResult, describe_model
from vit_interactions.utilities.files import WriteError
from vit_interactions.utilities.names import collision_key

pytestmark = pytest.mark.usefixtures("quick")


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
    if harm == "folder":  # not written by the run
        assert report.failed == {str(cat): f"{file} has the name of a result. Move it, or choose another `out`."}
    elif harm == "manifest":  # the folder may be that of another image
        assert (report.failed, report.done) == ({}, {str(cat): "cat-2"})
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


def test_error_of_an_unreadable_image_mentions_the_image(tmp_path: Path) -> None:
    broken = tmp_path / "cat.jpg"
    broken.symlink_to(tmp_path / "gone.jpg")
    run = explain([broken, image(tmp_path / "dog.jpg")], tmp_path / "out")
    assert run.failed[str(broken)].startswith("`image` must be a file, got a broken link to ")
