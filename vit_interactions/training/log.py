"""The numbers of a run, written as they come: CSV files always, TensorBoard and Weights & Biases where asked for."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vit_interactions.utilities.files import write_text
from vit_interactions.utilities.json_files import DamagedFileError, short_repr

ADVICE = "Repair the file, or remove it to go on without its rows."

Row = Mapping[str, float | int | None]


class Table:
    """A CSV file that grows row by row; the first column counts up, and the first row decides the columns.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     table = Table(Path(folder, "log.csv"))
        ...     table.add({"step": 1, "loss": 2.5})
        ...     table.add({"step": 2, "loss": None})
        ...     table.cut(1)
        ...     read_rows(table.path)
        [{'step': 1.0, 'loss': 2.5}]
    """

    def __init__(self, path: Path) -> None:
        """Take the file, which need not exist yet."""
        self.path = path

    def add(self, row: Row) -> None:
        """Append a row; it is in the file when this returns."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def cut(self, last: int) -> None:
        """Drop the rows whose first number is greater than `last`, and one that was not finished.

        Raises:
            DamagedFileError: anything but a table of numbers.
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
        read_rows(self.path)  # damage is told now rather than at the end of the training


def read_rows(path: Path) -> list[dict[str, float | None]]:
    """Read the whole rows of a CSV file of numbers; empty fields are None. No file has no rows.

    Raises:
        DamagedFileError: a field that is no number.
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
    """What else takes the numbers."""

    def add(self, part: str, row: Row, step: int) -> None:
        """Take the numbers of one step under "step" or "epoch"."""

    def close(self) -> None:
        """Write what is still to be written."""


class TensorBoard:
    """Numbers as scalars of TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write to a folder, from a step on.

        Raises:
            ImportError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("`tensorboard` needs a package: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def add(self, part: str, row: Row, step: int) -> None:
        """Take the numbers of one step."""
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(f"{part}/{name}", value, step)

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.close()


class WeightsAndBiases:
    """Numbers as a run of Weights & Biases, which a resumed training goes on with."""

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        """Start the run, or go on with the one that the folder remembers.

        Raises:
            ImportError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise ImportError("`wandb` needs a package: pip install wandb") from error
        remembered = folder / "wandb_run.txt"
        known = remembered.read_text(encoding="utf-8").strip() if remembered.exists() else None
        self._run: Any = wandb.init(
            project=project,
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(settings),
            id=known,
            resume="allow" if known else None,
        )
        write_text(remembered, str(self._run.id))

    def add(self, part: str, row: Row, step: int) -> None:
        """Take the numbers of one step."""
        self._run.log({f"{part}/{name}": value for name, value in row.items()}, step=step)

    def close(self) -> None:
        """Write what is still to be written."""
        self._run.finish()


class RunLog:
    """All that is written of a run: `log.csv` of steps, `summary.csv` of epochs, and further writers.

    Attributes:
        steps: log.csv.
        epochs: summary.csv.
    """

    def __init__(self, folder: Path, step: int, epoch: int, writers: Sequence[Writer] = ()) -> None:
        """Go on after `step` steps and `epoch` finished epochs; rows of later ones are dropped."""
        self.steps, self.epochs = Table(folder / "log.csv"), Table(folder / "summary.csv")
        self.steps.cut(step)
        self.epochs.cut(epoch - 1)
        self._writers = writers

    def step(self, row: Row) -> None:
        """Add the numbers of some steps of training."""
        self.steps.add(row)
        self._write("step", row)

    def epoch(self, row: Row) -> None:
        """Add the numbers of an epoch."""
        self.epochs.add(row)
        self._write("epoch", row)

    def close(self) -> None:
        """Close what is open."""
        for writer in self._writers:
            writer.close()

    def _write(self, part: str, row: Row) -> None:
        step = int(row["step"] or 0)
        numbers = {name: value for name, value in row.items() if name != "step"}
        for writer in self._writers:
            writer.add(part, numbers, step)
