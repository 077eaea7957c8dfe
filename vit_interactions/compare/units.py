"""The files of a comparison: a manifest, and of each photograph under each model one file of numbers, one of maps.

The numbers are written last, so that a unit is whole or not there at all, whenever the process was killed. They hold
the checksums of both files, so that damage and edits are found whenever a unit is read.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.utilities.files import sha256, write_json, write_whole
from vit_interactions.utilities.json_files import DamagedFileError, read_json
from vit_interactions.utilities.text import printable

MANIFEST = "comparison.json"
UNITS, PICTURES = "units", "pictures"
REPAIR = "Resume the comparison to measure it again."

# What is refused or not defined is so another time.
REFUSALS = ("ValueError", "UnsupportedModelError")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Failure:
    """What went wrong in one photograph: as a whole, in a method, or in a metric of a method.

    Attributes:
        reason: in words.
        error: the exception's class.
        method: "" for the photograph as a whole.
        metric: "" for a method that gave no map.
    """

    reason: str
    error: str
    method: str = ""
    metric: str = ""

    @classmethod
    def of(cls, error: Exception, method: str = "", metric: str = "") -> "Failure":
        """Word an exception, without characters that are for terminals or that no file can hold.

        Example:
            >>> Failure.of(KeyError("cat"), "gmar").reason
            "KeyError: 'cat'"
        """
        kind = type(error).__name__
        text = printable(str(error), lines=True)
        plain = isinstance(error, ValueError | OSError | UnsupportedModelError) and text
        return cls(text if plain else f"{kind}: {text}", kind, method, metric)

    @property
    def chance(self) -> bool:
        """Whether another run may end otherwise: a file comes back, memory is free."""
        return not self.method or self.error not in REFUSALS


@dataclass
class Unit:
    """What was found about one photograph under one model.

    Attributes:
        origin: what it was made from: the photograph's boxes, the SHA-256 of its mask and of itself (None where the
            file could not be read, or there is none), and "run", see `run_checksum`.
        size: (width, height) of the photograph in pixels; None where it could not be read.
        view: how the model saw it, see `View`; None where nothing could be measured.
        values: method -> metric -> value.
        failures: what is missing in `values`.
        window_share: share of all pairs that the adaptive windows hold; None where no method uses their fields.
        arrays: "map/METHOD" (rows, cols), more = more relevant; "curve/METRIC/METHOD" (points, 2). In a file of
            their own.
    """

    origin: dict[str, Any]
    size: list[int] | None = None
    view: dict[str, Any] | None = None
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    window_share: float | None = None
    arrays: dict[str, Array] = field(default_factory=dict)


def unit_path(folder: Path, model_folder: str, key: str) -> Path:
    """Name the file of a unit's numbers; its maps are beside it, ending in .npz."""
    return folder / UNITS / model_folder / f"{key}.json"


def write_unit(path: Path, unit: Unit) -> None:
    """Write a unit, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # else its numbers would stand beside other maps for a moment
    arrays: dict[str, Any] = unit.arrays  # `savez` has options of its own beside the arrays
    write_whole(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    numbers = {name: value for name, value in vars(unit).items() if name not in ("arrays", "failures")}
    numbers["failures"] = [asdict(failure) for failure in unit.failures]
    numbers["arrays_sha256"] = sha256(path.with_suffix(".npz"))
    write_json(path, {**numbers, "sha256": numbers_checksum(path, numbers)})


def read_unit(path: Path) -> Unit | None:
    """Read a unit without its arrays; None where there is none.

    Raises:
        DamagedFileError: one of its two files is damaged, was edited, or belongs to another unit.
    """
    content = read_json(path, REPAIR)
    if content is None:
        return None
    expected, checksum = content.pop("sha256", None), numbers_checksum(path, content)
    if expected != checksum:
        raise DamagedFileError(f"{path} is damaged or was edited: its checksum differs", REPAIR)
    arrays = path.with_suffix(".npz")
    if not arrays.is_file():
        raise DamagedFileError(f"{arrays} must be a file, got {'a folder' if arrays.exists() else 'none'}", REPAIR)
    if content.pop("arrays_sha256", None) != sha256(arrays):
        raise DamagedFileError(f"{arrays} is damaged or was edited: its checksum differs", REPAIR)
    try:
        return Unit(**{**content, "failures": [Failure(**failure) for failure in content["failures"]]})
    except (TypeError, KeyError):
        raise DamagedFileError(f"{path} is from another version of this library", REPAIR) from None


def numbers_checksum(path: Path, numbers: dict[str, Any]) -> str:
    """Compute the SHA-256 of a unit's numbers and of the place they belong to: the model's folder and the file."""
    text = json.dumps([path.parent.name, path.name, numbers], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_arrays(path: Path, kind: str) -> dict[str, Array]:
    """Read the arrays of a unit whose names begin with `kind` and a slash, by the rest of their names.

    Raises:
        DamagedFileError: the file is damaged, or holds pickled objects, which are never loaded.
    """
    file = path.with_suffix(".npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name[len(kind) + 1 :]: arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}
    except Exception as error:  # a damaged archive raises nearly anything: BadZipFile, EOFError, zlib.error, ...
        raise DamagedFileError(f"{file} is damaged ({type(error).__name__})", REPAIR) from error
