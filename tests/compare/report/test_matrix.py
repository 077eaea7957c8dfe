"""The matrix on a console: best values by hand, full names within 80 columns, and consoles that print ASCII only."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from tests.helpers.compared import METHODS, Compared
from vit_interactions.compare.report.matrix import matrices
from vit_interactions.metrics import METRICS
from vit_interactions.utilities.console import SafeConsole

LONG = "attention_rollout:fusion=max,discard=0.9"


def printed(compared: Compared, console: Console) -> str:
    with console.capture() as shown:
        console.print(*matrices(compared, console), sep="\n")  # type: ignore[arg-type]
    return shown.get()


def uncolored(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def plain(compared: Compared, width: int = 80) -> str:
    return printed(compared, SafeConsole(width=width, color_system=None))


class Wide(Compared):
    """A comparison by many metrics of methods with options."""

    def __init__(self) -> None:
        super().__init__(methods=["gmar", LONG, "gmar:norm=l1", "random_map"])
        self.metrics = [*METRICS]
        self.directions = dict.fromkeys(self.metrics, "higher")

    def table(self) -> pd.DataFrame:
        rows = [
            ("vit", "a", method, metric, -1 / 7 - number)
            for method in self.methods
            for number, metric in enumerate(self.metrics)
        ]
        return pd.DataFrame(rows, columns=["model", "image", "method", "metric", "value"])

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        means = self.table().drop(columns="image").rename(columns={"value": "mean"})
        return means.assign(low=-2.0, high=0.0, images=1, direction="higher")


def test_the_best_is_bold_and_the_baseline_marked() -> None:
    console = SafeConsole(width=80, force_terminal=True, color_system="standard")
    lines = printed(Compared(), console).splitlines()
    rows = {name: next(line for line in lines if f" {name} " in uncolored(line)) for name in METHODS}

    def bold(line: str) -> list[str]:
        return re.findall(r"\x1b\[1m\s*([-\d.]+)", line)

    # By hand from MEANS: insertion 0.7 0.4 (0.5) 0.1 upwards, deletion 0.7 0.4 (0.5) downwards; sparsity has no best.
    assert {name: bold(line) for name, line in rows.items()} == {
        "gmar": ["0.700"],
        "attention_rollout": ["0.400"],
        "random_map": [],
        "responsive_field_size": [],
    }
    assert "random_map (baseline)" in uncolored(rows["random_map"])


def test_numbers_directions_and_missing_values() -> None:
    lines = [line.split() for line in plain(Compared()).splitlines() if line.strip()]
    assert lines[0] == ["vit"]
    assert lines[1] == ["insertion", "deletion", "sparsity"]
    assert lines[2] == ["method", "higher", "lower"]
    assert lines[4:] == [
        ["gmar", "0.700", "0.700", "-1.50"],
        ["attention_rollout", "0.400", "0.400", "2,000"],
        ["random_map", "(baseline)", "0.500", "0.500", "1.00e-05"],
        ["responsive_field_size", "0.100", "-", "-"],
    ]


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_all_names_are_complete_within_the_width(width: int) -> None:
    text = plain(Wide(), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    starts = [number for number, line in enumerate(lines) if set(line.strip()) == {"─"}]
    heads, before = [], 0
    for start in starts:  # the lines above a rule, column by column
        above = lines[before:start]
        edges = [match.span() for match in re.finditer(r"\S+", above[-1])][1:]
        for _, end in edges:
            words = [re.search(r"\S*$", line[:end].ljust(end)) for line in above[:-1]]
            heads.append("".join(word.group() for word in words if word))
        before = start + 6  # four methods, one of them in two lines
        method = "".join(line[: edges[0][0]].split("  ")[0].strip() for line in lines[start + 2 : start + 4])
        assert method == LONG
    assert heads == [*METRICS]
    assert text.count("gmar:norm=l1") == len(starts)
    assert text.count("-0.143") == 4


def test_a_table_per_model() -> None:
    text = plain(Compared(models=("vit", "deit [bold]\x1b[31m")))
    titles = [line.strip() for line in text.splitlines() if line.startswith(("vit", "deit"))]
    assert titles == ["vit", "deit [bold]\ufffd[31m"]
    assert text.count("attention_rollout") == 2


def test_consoles_without_unicode_get_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    console = SafeConsole(file=file, width=80)
    compared = Compared(models=("vit \N{CAT}",))
    console.print(*matrices(compared, console), sep="\n")  # type: ignore[arg-type]
    file.seek(0)
    text = file.read()
    assert text.startswith("vit ?")
    assert "-1.50" in text
    assert "1.00e-05" in text
