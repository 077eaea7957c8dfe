"""The files of explorer pages, and the image that each belongs to."""

import hashlib
import os
import re
from pathlib import Path

HEAD = 4096  # bytes of a page that contain its <meta> elements


def image_id(path: Path) -> str:
    """Return the SHA-256 of an image's path: distinguishes images of one name without revealing their folders.

    Example:
        >>> image_id(Path("a/cat.jpg")) == image_id(Path("b/cat.jpg"))
        False
    """
    return hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogatepass")).hexdigest()


def image_of(page: Path) -> str | None:
    """Return the `image_id` that a page states, "" if it states none, or None if it is not an explorer page."""
    head = b""
    if page.is_file():
        with page.open("rb") as file:
            head = file.read(HEAD)
    if b'<meta name="generator" content="vit_interactions ' not in head:
        return None
    stated = re.search(rb'<meta name="image" content="(\w*)">', head)
    return stated[1].decode() if stated else ""


def pages_by_image(folder: Path) -> dict[str, Path]:
    """Return the explorer pages in a folder by the `image_id` of their images; empty if there is no such folder."""
    return {image: page for page in sorted(folder.glob("*.html")) if (image := image_of(page))}
