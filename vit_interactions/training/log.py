"""Logs of a run: CSV files always, TensorBoard and Weights & Biases on request."""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vit_interactions.utilities.files import write_text
from vit_interactions.utilities.json_files import DamagedFileError, short_repr

ADVICE = "Repair the file, or remove it to continue without its rows."

Row = Mapping[str, float | int | None]
Pictures = Mapping[str, Image.Image]
NO_PICTURES: Pictures = {}


class CsvLog:
    """A CSV file that grows row by row; the first column counts up, and the first row determines the columns.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     log = CsvLog(Path(folder, "log.csv"))
        ...     log.add({"step": 1, "loss": 2.5})
        ...     log.add({"step": 2, "loss": None})
        ...     log.cut(1)
        ...     read_rows(log.path)
        [{'step': 1.0, 'loss': 2.5}]
    """

    def __init__(self, path: Path) -> None:
        """Use a file, which need not exist yet."""
        self.path = path

    def add(self, row: Row) -> None:
        """Append a row, and flush it to the file."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def cut(self, last: int) -> None:
        """Drop rows whose first number is greater than `last`, and an unfinished row at the end.

        Raises:
            DamagedFileError: a file that is not a table of numbers.
        """
        if not self.path.exists():
            return
        try:
            header, *rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        except UnicodeDecodeError:
            raise DamagedFileError(f"{self.path} is damaged: it is not UTF-8 text", ADVICE) from None
        if not header.endswith("\n"):
            self.path.unlink()
            return
        kept = [row for row in rows if row.endswith("\n") and _first_number(self.path, row) <= last]
        write_text(self.path, "".join([header, *kept]))
        read_rows(self.path)  # report damage now rather than at the end of the training


def read_rows(path: Path) -> list[dict[str, float | None]]:
    """Read the complete rows of a CSV file of numbers; empty fields are None, and a missing file has no rows.

    Raises:
        DamagedFileError: a field that is not a number.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        whole = [row for row in rows if None not in row.values()]
        return [{name: float(value) if value else None for name, value in row.items()} for row in whole]
    except (ValueError, TypeError, csv.Error) as error:
        raise DamagedFileError(f"{path} is damaged: it is not a table of numbers ({error})", ADVICE) from None


def _first_number(path: Path, row: str) -> int:
    try:
        return int(row.split(",")[0])
    except ValueError:
        raise DamagedFileError(f"{path} is damaged: a row begins with {short_repr(row)}", ADVICE) from None


class Writer(Protocol):
    """An additional logger."""

    def add(self, part: str, row: Row, step: int, pictures: Pictures = NO_PICTURES) -> None:
        """Log the numbers and pictures of one step under "PART/NAME", with the parts "step", "epoch" and "explain"."""

    def close(self) -> None:
        """Write everything that is pending."""


class TensorBoard:
    """Logs numbers as TensorBoard scalars, and pictures as images."""

    def __init__(self, writer: Any) -> None:
        """Log to a `SummaryWriter`."""
        self._writer = writer

    def add(self, part: str, row: Row, step: int, pictures: Pictures = NO_PICTURES) -> None:
        """Log the numbers and pictures of one step; None values are skipped."""
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(f"{part}/{name}", value, step)
        for name, picture in pictures.items():
            self._writer.add_image(f"{part}/{name}", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def open_tensorboard(folder: Path, step: int) -> TensorBoard:
    """Continue the log of TensorBoard in a folder after a step; later entries are dropped.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("`tensorboard` needs a package: pip install tensorboard") from error
    return TensorBoard(SummaryWriter(str(folder), purge_step=step + 1))


class WeightsAndBiases:
    """Logs numbers and pictures to a run of Weights & Biases, or of a library with the same interface."""

    def __init__(self, run: Any, *, own: bool = False) -> None:
        """Log to a run.

        A user's run counts steps in its own way and would ignore entries of an earlier step. So only an `own` run is
        given the step; others get it as one more number.
        """
        self._run, self._own = run, own

    def add(self, part: str, row: Row, step: int, pictures: Pictures = NO_PICTURES) -> None:
        """Log the numbers and pictures of one step."""
        entries: dict[str, Any] = {f"{part}/{name}": value for name, value in row.items()}
        for name, picture in pictures.items():
            entries[f"{part}/{name}"] = image_class(self._run)(picture)
        if self._own:
            self._run.log(entries, step=step)
        else:
            self._run.log({f"{part}/step": step, **entries})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def image_class(run: Any) -> Any:
    """Return the class `Image` of the library that a run belongs to; None if it has none."""
    package = type(run).__module__.partition(".")[0]
    return getattr(sys.modules.get(package), "Image", None)


def open_wandb(folder: Path, project: str, settings: Mapping[str, Any]) -> WeightsAndBiases:
    """Start a run of Weights & Biases, or continue the one whose ID is saved in the folder.

    Raises:
        ImportError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError("`wandb` needs a package: pip install wandb") from error
    saved = folder / "wandb_run.txt"
    known = saved.read_text(encoding="utf-8").strip() if saved.exists() else None
    run: Any = wandb.init(
        project=project,
        name=folder.resolve().name,
        dir=str(folder),
        config=dict(settings),
        id=known,
        resume="allow" if known else None,
    )
    write_text(saved, str(run.id))
    return WeightsAndBiases(run, own=True)


class RunLog:
    """All logs of a run: `log.csv` of steps, `summary.csv` of epochs, and additional writers."""

    def __init__(self, folder: Path, step: int, epochs: int, writers: Sequence[Writer] = ()) -> None:
        """Continue after `step` steps and `epochs` finished epochs; later rows are dropped."""
        self._logs = {"step": CsvLog(folder / "log.csv"), "epoch": CsvLog(folder / "summary.csv")}
        self._logs["step"].cut(step)
        self._logs["epoch"].cut(epochs - 1)
        self._writers = writers

    def add(self, part: str, row: Row) -> None:
        """Log the numbers of some steps ("step") or of an epoch ("epoch")."""
        self._logs[part].add(row)
        step = int(row["step"] or 0)
        numbers = {name: value for name, value in row.items() if name != "step"}
        for writer in self._writers:
            writer.add(part, numbers, step)

    def close(self) -> None:
        """Close the additional writers."""
        for writer in self._writers:
            writer.close()
