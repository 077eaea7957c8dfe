"""The files of a comparison: a manifest, and of each photograph under each model one file of numbers, one of maps.

The numbers are written last, so that a unit is whole or not there at all,
whenever the process was killed.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.files import write_json, write_whole
from vit_interactions.wording import printable

MANIFEST = "comparison.json"
UNITS, PICTURES = "units", "pictures"

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
        origin: what it was made from: the photograph's boxes, and the SHA-256 of its mask and of itself (None where the
            file could not be read, or there is none).
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
    write_json(path, {**numbers, "failures": [asdict(failure) for failure in unit.failures]})


def read_unit(path: Path) -> Unit | None:
    """Read a unit without its arrays; None where there is none that is whole."""
    try:
        content = read_json(path)
        if content is None or not path.with_suffix(".npz").is_file():
            return None
        return Unit(**{**content, "failures": [Failure(**failure) for failure in content["failures"]]})
    except (ValueError, TypeError, KeyError):  # damaged, or of another version
        return None


def read_arrays(path: Path, kind: str) -> dict[str, Array]:
    """Read the arrays of a unit whose names begin with `kind` and a slash, by the rest of their names."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return {name[len(kind) + 1 :]: arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}


def read_json(path: Path) -> dict[str, Any] | None:
    """Read JSON; None where there is no file."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content
