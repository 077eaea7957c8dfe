"""The record of one image under one model, in two files: one of numbers, one of arrays.

The numbers are written last, so a record is complete or absent whenever the process is killed. They include
the checksums of both files, so damage and edits are found whenever a record is read.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.placement import Placement
from vit_interactions.loading.predictions import Prediction
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.files import write_bytes
from vit_interactions.utilities.json_files import DamagedFileError, read_json, write_json
from vit_interactions.utilities.text import printable

RECORDS = "records"  # folder
REPAIR = "Resume the comparison to measure it again."

# Deterministic failures: trying again cannot help.
DETERMINISTIC = ("ValueError", "UnsupportedModelError")


@dataclass(frozen=True)
class Failure:
    """The reason for a missing result.

    Attributes:
        reason: in words.
        error: class of the exception.
        method: whose map or value is missing; "" if the image as a whole failed.
        metric: whose value is missing; "" if the method gave no map.
    """

    reason: str
    error: str
    method: str = ""
    metric: str = ""

    @classmethod
    def of(cls, error: Exception, method: str = "", metric: str = "") -> "Failure":
        """Describe an exception, without unprintable characters.

        Example:
            >>> Failure.of(KeyError("cat"), "gmar").reason
            "KeyError: 'cat'"
        """
        kind = type(error).__name__
        text = printable(str(error), lines=True)
        plain = isinstance(error, ValueError | OSError | UnsupportedModelError) and text
        return cls(text if plain else f"{kind}: {text}", kind, method, metric)

    @property
    def transient(self) -> bool:
        """True if another run may succeed: a file may come back, memory may be free."""
        return not self.method or self.error not in DETERMINISTIC


@dataclass
class Record:
    """All results for one image under one model, filled while it is measured.

    Attributes:
        origin: what the results were computed from: the image's boxes, the SHA-256 of its mask and of its file (None if
            missing or unreadable), and "run", see `manifest.run_checksum`.
        size: (width, height) of the image in pixels; None if it could not be read.
        prediction: top class; None for a model without classes.
        target_class: class that class-specific methods explain; None for a model without classes.
        layout: of the model's patches; None if nothing could be measured.
        placement: where the pixels of the model's input lie in the image; None if nothing could be measured.
        values: method -> metric -> value.
        failures: why values are missing.
        window_fraction: fraction of all patch pairs inside the adaptive windows; None if no method uses them.
        sink_patches: number of patches that are attention sinks; None if no method uses U.
        maps: method -> (rows, cols), higher is more relevant.
        curves: metric -> method -> (points, 2).
    """

    origin: dict[str, Any]
    size: tuple[int, int] | None = None
    prediction: Prediction | None = None
    target_class: Prediction | None = None
    layout: TokenLayout | None = None
    placement: Placement | None = None
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    window_fraction: float | None = None
    sink_patches: int | None = None
    maps: dict[str, Array] = field(default_factory=dict)
    curves: dict[str, dict[str, Array]] = field(default_factory=dict)

    @property
    def target(self) -> int | None:
        """Index of the target class; None for a model without classes."""
        return None if self.target_class is None else self.target_class.index

    @property
    def error(self) -> str | None:
        """The reason why the image as a whole has no results; None if it has."""
        return next((failure.reason for failure in self.failures if not failure.method), None)

    def geometry(self) -> tuple[tuple[int, int], TokenLayout, Placement]:
        """Return size, layout and placement, which place maps on the image.

        Raises:
            ValueError: nothing could be measured.
        """
        if self.size is None or self.layout is None or self.placement is None:
            raise ValueError(self.error or "the image has not been measured.")
        return self.size, self.layout, self.placement


def record_path(folder: Path, model_folder: str, key: str) -> Path:
    """Return the path of a record's numbers; its arrays are in the same folder, in a file that ends in .npz."""
    return folder / RECORDS / model_folder / f"{key}.json"


def write_record(path: Path, record: Record) -> None:
    """Write the two files of a record, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # old numbers never describe new arrays
    arrays: dict[str, Any] = {f"map/{method}": values for method, values in record.maps.items()}
    for metric, curves in record.curves.items():
        arrays.update({f"curve/{metric}/{method}": curve for method, curve in curves.items()})
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    content = file.getvalue()
    write_bytes(path.with_suffix(".npz"), content)
    numbers = asdict(replace(record, maps={}, curves={}))
    del numbers["maps"], numbers["curves"]
    numbers["arrays_sha256"] = hashlib.sha256(content).hexdigest()
    write_json(path, {**numbers, "sha256": numbers_checksum(path, numbers)})


def read_record(path: Path, *, arrays: bool = True) -> Record | None:
    """Read a record; None if there is none.

    Args:
        path: from `record_path`.
        arrays: read maps and curves too; both files are checked either way.

    Raises:
        DamagedFileError: one of the two files is damaged, was edited, or belongs to another record.
    """
    content = read_json(path, REPAIR)
    if content is None:
        return None
    expected, checksum = content.pop("sha256", None), numbers_checksum(path, content)
    if expected != checksum:
        raise DamagedFileError(f"{path} is damaged or was edited: its checksum differs", REPAIR)
    file = path.with_suffix(".npz")
    if not file.is_file():
        raise DamagedFileError(f"{file} must be a file, got {'a folder' if file.exists() else 'none'}", REPAIR)
    packed = file.read_bytes()
    if content.pop("arrays_sha256", None) != hashlib.sha256(packed).hexdigest():
        raise DamagedFileError(f"{file} is damaged or was edited: its checksum differs", REPAIR)
    try:
        record = _from_json(content)
    except (TypeError, KeyError):
        raise DamagedFileError(f"{path} is from another version of this library", REPAIR) from None
    if arrays:
        load_arrays(record, file, packed)
    return record


def _from_json(content: dict[str, Any]) -> Record:
    """Restore the types that JSON does not have."""
    if layout := content["layout"]:
        layout |= {"extent": tuple(layout["extent"]), "order": layout["order"] and tuple(layout["order"])}
    kinds = {"prediction": Prediction, "target_class": Prediction, "layout": TokenLayout, "placement": Placement}
    parts = {name: content[name] and kind(**content[name]) for name, kind in kinds.items()}
    size = content["size"] and tuple(content["size"])
    failures = [Failure(**failure) for failure in content["failures"]]
    return Record(**{**content, **parts, "size": size, "failures": failures})


def numbers_checksum(path: Path, numbers: dict[str, Any]) -> str:
    """Compute the SHA-256 of a record's numbers and of their place: the model's folder and the file name."""
    text = json.dumps([path.parent.name, path.name, numbers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_arrays(record: Record, file: Path, content: bytes) -> None:
    """Fill the maps and curves of a record whose numbers are known.

    Args:
        record: to fill.
        file: path of its archive, for errors.
        content: bytes of the archive.

    Raises:
        DamagedFileError: the archive is damaged, or contains pickled objects, which are never loaded.
    """
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            names = set(arrays.files)
            for method, values in record.values.items():
                record.maps[method] = arrays[f"map/{method}"]
                for metric in values:
                    if (name := f"curve/{metric}/{method}") in names:
                        record.curves.setdefault(metric, {})[method] = arrays[name]
    except Exception as error:  # a damaged archive raises nearly anything: BadZipFile, EOFError, zlib.error, ...
        raise DamagedFileError(f"{file} is damaged ({type(error).__name__})", REPAIR) from error
