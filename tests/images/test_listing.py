"""Folders list files with the extensions of images."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.command_line import no_hang
from tests.helpers.refused_images import REFUSED, SKIPPED
from vit_interactions.images.listing import find_images, skipped_files


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    with no_hang(120):
        yield


def test_folders_list_files_with_image_extensions(photos: Path) -> None:
    assert [path.name for path in find_images([photos])] == ["good.png", *REFUSED]
    assert skipped_files([photos]) == SKIPPED
    assert skipped_files([photos / "notes.txt"]) == ""  # given by name, so it fails instead
    (photos / "other").mkdir()
    (photos / "other" / "\x1b[31m.txt").touch()
    assert skipped_files([photos / "other"]) == "skipped 1 file that is not an image: \ufffd[31m.txt"
