"""The manifest of a comparison: its settings, versions, models and images, read back with every key checked."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vit_interactions.images.boxes import ObjectBox
from vit_interactions.images.reading import to_rgb
from vit_interactions.utilities.files import write_atomically, write_errors
from vit_interactions.utilities.json_files import DamagedFileError, check_keys, read_json

MANIFEST = "comparison.json"
IMAGES = "images"  # folder of the images that were given as Pillow images
EXPLORER = "explorer"  # folder of the explorer pages
TABLE, SUMMARY = "table.csv", "summary.csv"  # all values, and their means
FORMAT = 2  # 1 had no number
ADVICE = "Restore the file, or compare again into another folder."

KEYS = {"settings": dict, "versions": dict, "models": dict, "images": list}
WINDOWS = {"alpha": float, "beta": float, "coverage": float, "exclude_sinks": bool}
SETTINGS = {"target": int | str, **WINDOWS, "seed": int, "methods": dict, "metrics": dict}
MODEL = {"folder": str, "trained": dict}
IMAGE = {"key": str, "name": str, "path": str, "boxes": list, "mask": str | None}
BOX = {"left": float, "top": float, "right": float, "bottom": float, "index": int | None}


@dataclass(frozen=True)
class ListedImage:
    """An image of a comparison, as the manifest lists it.

    Attributes:
        key: name of its files in the comparison's folder.
        name: in tables and pages.
        path: of the file; relative to the comparison's folder for a Pillow image.
        boxes: around its objects.
        mask: file of its object's mask, or the path where it should be; None without masks.
        pillow: the image itself, if it was given instead of a file.
        size: (width, height) in pixels; None until it has been read.
        sha256: of the file; None until then.
        error: why it has no results under any model; None if it has.
    """

    key: str
    name: str
    path: Path
    boxes: tuple[ObjectBox, ...] = ()
    mask: Path | None = None
    pillow: Image.Image | None = None
    size: tuple[int, int] | None = None
    sha256: str | None = None
    error: str | None = None

    @property
    def source(self) -> Path:
        """Path that boxes and masks are matched to."""
        if self.pillow is None:
            return self.path
        return Path(getattr(self.pillow, "filename", "") or self.name)

    def write_to(self, folder: Path) -> Path:
        """Return the image's file; a Pillow image is written into the comparison's folder first."""
        path = folder / self.path
        if self.pillow is not None:
            upright = to_rgb(self.pillow)
            with write_errors(path):
                path.parent.mkdir(exist_ok=True)
            write_atomically(path, lambda file: upright.save(file, "png"))
        return path

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        mask = None if self.mask is None else str(self.mask)
        boxes = [asdict(box) for box in self.boxes]
        return {"key": self.key, "name": self.name, "path": str(self.path), "boxes": boxes, "mask": mask}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ListedImage":
        """Restore an image from its entry."""
        boxes = tuple(ObjectBox(*(box[name] for name in BOX)) for box in content["boxes"])
        mask = None if content["mask"] is None else Path(content["mask"])
        return cls(content["key"], content["name"], Path(content["path"]), boxes, mask)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a comparison; None if the folder has none.

    Raises:
        DamagedFileError: it is damaged, has another format, or a key is missing or has a value of another type.
    """
    path = folder / MANIFEST
    content = read_json(path, ADVICE)
    if content is None:
        return None
    if (found := content.get("format", 1)) != FORMAT:
        raise DamagedFileError(
            f"{path} must have format {FORMAT}, got {found} of another version of this library",
            "Use that version, or compare again into another folder.",
        )
    check_keys(path, content, KEYS, ADVICE)
    settings = content["settings"]
    check_keys(path, settings, SETTINGS, ADVICE, "settings")
    for name, method in settings["methods"].items():
        check_keys(path, method, {}, ADVICE, f"settings.methods.{name}")
    for name, metric in settings["metrics"].items():
        check_keys(path, metric, {"direction": str}, ADVICE, f"settings.metrics.{name}")
    for key in ("models", "images"):
        if not content[key]:
            raise DamagedFileError(f"{path}: `{key}` must have at least one, got none", ADVICE)
    for name, model in content["models"].items():
        check_keys(path, model, MODEL, ADVICE, f"models.{name}")
        check_file_name(path, model["folder"], f"models.{name}.folder")
    for number, image in enumerate(content["images"]):
        check_image(path, image, f"images[{number}]")
    return content


def check_image(path: Path, image: Any, within: str) -> None:
    """Raise DamagedFileError unless an entry of the manifest describes an image."""
    check_keys(path, image, IMAGE, ADVICE, within)
    check_file_name(path, image["key"], f"{within}.key")
    for number, box in enumerate(image["boxes"]):
        check_keys(path, box, BOX, ADVICE, f"{within}.boxes[{number}]")


def check_file_name(path: Path, name: str, key: str) -> None:
    """Raise DamagedFileError if a name would lead to another folder."""
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise DamagedFileError(f"{path}: `{key}` must be the name of a file, got {name!r}", ADVICE)


def run_checksum(content: dict[str, Any], model: str) -> str:
    """Compute the SHA-256 of everything that all records of a model depend on: settings, versions and the model."""
    text = json.dumps([content["settings"], content["versions"], content["models"][model]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
