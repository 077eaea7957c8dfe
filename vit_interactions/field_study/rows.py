"""The measured values of a study, in a CSV file that grows image by image and is always complete.

Each row ends with a checksum of its numbers and of its image, so that damage and edits are found when a run resumes.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path

from vit_interactions.field_study.measure import CLAIMS, CONTROLS, Values
from vit_interactions.field_study.objects import StudyImage
from vit_interactions.utilities.files import check_not_folder, write_text
from vit_interactions.utilities.text import spreadsheet_text

FILE = "per_image.csv"
COLUMNS = ("number", "image", "alpha", "control", *CLAIMS, "check")

Measured = Mapping[tuple[float, str], Values]  # alpha and control -> claim -> value


class Rows:
    """The rows of `per_image.csv`: one per image, alpha and control.

    Attributes:
        measured: number of the image -> its values.
    """

    def __init__(self, folder: Path, images: Sequence[StudyImage], alphas: Sequence[float]) -> None:
        """Use the file in a folder, starting with the complete and undamaged images that it already has.

        Raises:
            ValueError: a folder in the place of the file.
        """
        self.path, self._images = folder / FILE, images
        check_not_folder(self.path)
        self._lines: dict[int, list[str]] = {}
        self.measured: dict[int, Measured] = {}
        expected = [(alpha, control) for alpha in alphas for control in CONTROLS]
        for number, rows in _read(self.path).items():
            if number < len(images):
                values = {_key(row): _values(row) for row in rows if row == self._row(number, *_parts(row))}
                if list(values) == expected:
                    self._keep(number, values)

    def add(self, number: int, values: Measured) -> None:
        """Add the values of an image and write the whole file atomically.

        Raises:
            WriteError: the disk is full, or the folder is not writable.
        """
        self._keep(number, values)
        write_text(
            self.path, _line(COLUMNS) + "".join(line for n in sorted(self._lines) for line in self._lines[n])
        )

    def _keep(self, number: int, values: Measured) -> None:
        self.measured[number] = values
        self._lines[number] = [_line(self._row(number, key, claims)) for key, claims in values.items()]

    def _row(self, number: int, key: tuple[float, str], values: Values) -> list[str]:
        image = self._images[number]
        numbers = ["" if isnan(values[claim]) else repr(values[claim]) for claim in CLAIMS]
        cells = [str(number), spreadsheet_text(image.path.name), repr(key[0]), key[1], *numbers]
        return [*cells, hashlib.sha256(repr([image.sha256, *cells]).encode()).hexdigest()[:12]]


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _read(path: Path) -> dict[int, list[list[str]]]:
    """Return the rows of each image that have the right format, without checking their checksums."""
    found: dict[int, list[list[str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.reader(file):
                if len(row) == len(COLUMNS) and row[0].isascii() and row[0].isdecimal() and _is_numeric(row):
                    found.setdefault(int(row[0]), []).append(row)
    except (FileNotFoundError, csv.Error):
        pass  # rows after a broken one are measured again
    return found


def _is_numeric(row: list[str]) -> bool:
    try:
        _key(row), _values(row)
    except ValueError:
        return False
    return True


def _key(row: list[str]) -> tuple[float, str]:
    return float(row[2]), row[3]


def _values(row: list[str]) -> Values:
    return {claim: float(cell) if cell else nan for claim, cell in zip(CLAIMS, row[4:-1], strict=True)}


def _parts(row: list[str]) -> tuple[tuple[float, str], Values]:
    return _key(row), _values(row)
