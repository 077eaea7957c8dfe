"""The CSV files of a comparison: all values, and their means, complete whenever they are read."""

import time
from contextlib import suppress
from pathlib import Path

import pandas as pd

from vit_interactions.compare.manifest import SUMMARY, TABLE
from vit_interactions.compare.results import Results
from vit_interactions.utilities.files import check_not_folder, write_text
from vit_interactions.utilities.json_files import DamagedFileError
from vit_interactions.utilities.text import spreadsheet_text

PAUSE = 50  # times as long as the last writing took, so that writing takes at most 2% of the time


def csv_text(table: pd.DataFrame) -> str:
    """Format a table as CSV that is safe to open in a spreadsheet; missing values are empty.

    Example:
        >>> print(csv_text(pd.DataFrame({"method": ["gmar", "=1+1"], "value": [-0.5, float("nan")]})), end="")
        method,value
        gmar,-0.5
        '=1+1,
    """
    safe = table.copy()
    for name in safe.select_dtypes(exclude="number").columns:
        shown = {text: spreadsheet_text(str(text)) for text in safe[name].unique()}
        safe[name] = safe[name].map(shown)
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text


def write_csv_files(results: Results) -> None:
    """Write `table.csv` and `summary.csv` into the folder of a comparison, each completely or not at all.

    Raises:
        DamagedFileError: a damaged record.
        WriteError: the disk is full, or the folder is not writable.
    """
    write_text(results.folder / TABLE, csv_text(results.table()))
    write_text(results.folder / SUMMARY, csv_text(results.summary()))


class CsvFiles:
    """The CSV files of a comparison that is running."""

    def __init__(self, folder: Path) -> None:
        """Use the files in the comparison's folder.

        Raises:
            ValueError: a folder in the place of a file.
        """
        for name in (TABLE, SUMMARY):
            check_not_folder(folder / name)
        self._folder = folder
        self._next = 0.0

    def update(self) -> None:
        """Write the results so far, unless they were written just before."""
        started = time.monotonic()
        if started < self._next:
            return
        # A record that an earlier run left damaged is measured again before this run ends.
        with suppress(DamagedFileError):
            write_csv_files(Results.open(self._folder))
        now = time.monotonic()
        self._next = now + PAUSE * (now - started)
