"""A dataset of images in one folder per class."""

import os
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from vit_interactions.images import read_image
from vit_interactions.images.reading import image_extensions
from vit_interactions.loading.class_maps import ClassNames, abbreviate

# timm's synonyms for splits.
SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))


class ImageFolder(Dataset[tuple[Image.Image, int]]):
    """Images in one folder per class, in timm's order and with timm's class numbers.

    An unreadable image raises an error; no other image takes its place.

    Attributes:
        root: path of the folder of class folders.
        samples: (path, class number) per image.
        class_to_idx: class name -> number.
        others: visible files that are not images, relative to `root`.
    """

    def __init__(self, root: Path, classes: ClassNames | None = None) -> None:
        """List the images.

        Args:
            root: folder of class folders.
            classes: the known classes; None for one class per folder.

        Raises:
            ValueError: no images, images outside class folders or deeper, folders of unknown classes, or class folders
                without images if the folders determine the classes.
            OSError: a folder that cannot be read.
        """
        self.root = str(root)
        found, self.others = _class_folders(root)
        filled = [name for name, images in found.items() if images]
        if not filled:
            raise ValueError(f"`data` must have one folder of images per class, got none in {root}.")
        if classes is None and len(filled) < len(found):
            empty = [name for name, images in found.items() if not images]
            raise ValueError(
                f"`data` {root} must have images of each class, got none in {abbreviate(empty)}. Remove it."
            )
        self.class_to_idx = (
            {name: number for number, name in enumerate(filled)}
            if classes is None
            else classes.class_to_idx(filled)
        )
        self.samples = sorted(
            ((path, self.class_to_idx[name]) for name in filled for path in found[name]),
            key=lambda sample: natural_key(sample[0]),
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, number = self.samples[index]
        return read_image(path), number

    def filename(self, index: int) -> str:
        """Return an image's path relative to `root`."""
        return os.path.relpath(self.samples[index][0], self.root)

    def filenames(self) -> list[str]:
        """Return the paths of all images relative to `root`."""
        return [self.filename(index) for index in range(len(self))]


def split_folder(data: Path, split: str) -> Path:
    """Find the folder of a split under any of timm's synonyms; return the dataset's own folder if there is none."""
    same = next((names for names in SYNONYMS if split in names), ())
    return next((data / name for name in (split, *same) if (data / name).is_dir()), data)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that orders numbers by value, as timm does, and distinguishes names that differ only in case.

    Example:
        >>> sorted(["10.png", "9.png", "a", "A"], key=natural_key)
        ['9.png', '10.png', 'A', 'a']
    """
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], text


def _class_folders(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """List class folder -> images, folders in natural order, and the files that are not images."""
    entries = list(os.scandir(root))
    folders = sorted((entry for entry in entries if _is_folder(entry)), key=lambda entry: natural_key(entry.name))
    files = [entry.name for entry in entries if not _is_folder(entry)]
    if loose := sorted(filter(_is_image, files)):
        raise ValueError(
            f"`data` {root} must have images in class folders only, got {abbreviate(loose)} outside. Move them."
        )
    found: dict[str, list[str]] = {}
    nested: list[str] = []
    others = [name for name in files if not name.startswith(".")]
    for folder in folders:
        images = []
        for entry in os.scandir(folder.path):
            if _is_folder(entry):
                nested += islice(_images_below(entry.path), 1)
            elif _is_image(entry.name):
                images.append(entry.path)
            elif not entry.name.startswith("."):
                others.append(os.path.join(folder.name, entry.name))
        if images or not folder.name.startswith("."):
            found[folder.name] = images
    if nested:
        names = sorted(os.path.relpath(path, root) for path in nested)
        raise ValueError(
            f"`data` must have images directly in one folder per class, got {abbreviate(names)} in {root}. Move the "
            "images up into the class folders, or give the folder in which each folder is one class."
        )
    return found, sorted(others)


def _images_below(folder: str) -> Iterator[str]:
    """Yield the images below a folder, visiting each folder once even if links form a circle."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort(key=natural_key)
        yield from (os.path.join(here, name) for name in sorted(files, key=natural_key) if _is_image(name))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it as an image reports it
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _extensions()


@cache
def _extensions() -> frozenset[str]:
    return frozenset(image_extensions())
