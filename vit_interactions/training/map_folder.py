"""A folder that collects pictures and numbers step by step, and is whole at any time."""

import csv
import io
from functools import partial
from pathlib import Path

from vit_interactions.training.log import NO_PICTURES, Pictures, Row
from vit_interactions.utilities.files import write_atomically, write_text

TABLE = "interactions.csv"


class MapFolder:
    """Writes `NAME/step_00000031.png` per picture, and a row per step to `interactions.csv`.

    Each file is replaced atomically, and the row comes last, so a step with a row has all its pictures. A step that is
    written again replaces the step and all later ones, so a resumed run leaves one version of each.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for step in (0, 2, 1):
        ...         MapFolder(Path(folder)).add("explain", {"operations": 10 * step}, step)
        ...     print(Path(folder, TABLE).read_text())
        step,operations
        0,0
        1,10
        <BLANKLINE>
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist yet."""
        self._folder = folder

    def add(self, part: str, row: Row, step: int, pictures: Pictures = NO_PICTURES) -> None:
        """Write the pictures and numbers of one step."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = self._rows_before(step)
        self._write(rows)
        for path in self._folder.glob("*/step_*.png"):
            number = path.stem.removeprefix("step_")
            if number.isdecimal() and int(number) > step:
                path.unlink()
        for name, picture in pictures.items():
            path = self._folder / name / f"step_{step:08}.png"
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, partial(picture.save, format="png"))
        own = {name: "" if value is None else str(value) for name, value in row.items()}
        self._write([*rows, {"step": str(step), **own}])

    def close(self) -> None:
        """Do nothing: everything is written."""

    def _rows_before(self, step: int) -> list[dict[str, str]]:
        path = self._folder / TABLE
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["step"]) < step]

    def _write(self, rows: list[dict[str, str]]) -> None:
        # Other images or methods than before add columns, and leave the earlier ones empty.
        columns = dict.fromkeys(["step", *(name for row in rows for name in row)])
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._folder / TABLE, table.getvalue())
