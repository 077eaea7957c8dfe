"""Folders are replaced whole: a kill at any step is repaired."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.quick_gallery import explain, hidden, image, value
from vit_interactions.gallery import replace
from vit_interactions.gallery.folder import is_complete

pytestmark = pytest.mark.usefixtures("quick")


class Killed(BaseException):
    """Simulates the end of the process."""


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


def test_repair_keeps_an_old_folder_without_replacement(tmp_path: Path) -> None:
    out = tmp_path / "out"
    explain([image(tmp_path / "cat.jpg")], out)
    (out / "cat").rename(out / ".cat.replaced")
    replace.repair(out)
    assert value(out / "cat") == 1.25
    assert hidden(out) == []
