"""Each image gets its own page of the explorer."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from tests.helpers.quick_gallery import file_names, image
from vit_interactions.explorer import pages


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
