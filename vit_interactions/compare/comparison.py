"""What a comparison found, read from its folder."""

import shutil
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.manifest import read_manifest, run_checksum
from vit_interactions.compare.summary import summarise
from vit_interactions.compare.units import MANIFEST, Array, Unit, read_arrays, read_unit, unit_path
from vit_interactions.compare.view import View
from vit_interactions.explain.settings import OPEN_WINDOWS
from vit_interactions.functional.scores import Output
from vit_interactions.images.reading import read_image
from vit_interactions.metrics import agreement
from vit_interactions.models.trained_windows import other_windows
from vit_interactions.utilities.json_files import DamagedFileError

TABLE = ["model", "photograph", "method", "metric", "value"]
SCORES: dict[Output, str] = {
    "sigmoid": "the probability of a class is the sigmoid of its output",
    "probabilities": "the outputs are taken for probabilities as they are",
    "value": "the output is a value, not a probability, and metrics are in its units",
}
FAILURES = ["model", "photograph", "method", "metric", "reason", "error"]


class _Results(NamedTuple):
    """What all units together say; see the properties of `Comparison`."""

    table: pd.DataFrame
    failures: pd.DataFrame
    photographs: list[dict[str, Any]]
    unfinished: int
    window_shares: dict[str, list[float]]
    outputs: dict[str, set[Output]]


class Comparison:
    """A comparison in a folder, finished or not.

    Attributes:
        folder: where it is.
        settings: target, output, alpha, beta, seed, batch_size; "methods": what each says of itself; "metrics":
            direction, range, source, parameters, needs and cost of each.
        versions: of Python and of the packages.
        photographs: of each its key, path, name, boxes, and mask (its file, or None); once it has been read, its size
            (width, height) and sha256, or the error.
        models: names.
        model_facts: of each model its device, its preprocessing with the mean and standard deviation
            ("normalisation"), the SHA-256 of its weights and of what it computes with them ("architecture"), whether
            its classes are those of timm's own weights ("named"), and the alpha and beta that it was trained with,
            where they are known.
        methods: names.
        metrics: names; what a map costs ("seconds", "forwards", "peak_memory") comes beside them in the tables.

    Example:
        >>> import vit_interactions as vi
        >>> noise = Image.effect_noise((64, 64), 50)
        >>> comparison = vi.compare([noise], "test_vit", ["raw_attention", "random_map"], ["deletion"])
        ... # doctest: +SKIP
        >>> comparison.summary()  # doctest: +SKIP
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Take the folder and the content of its manifest; `Comparison.open` reads it."""
        self.folder = folder
        self.settings: dict[str, Any] = manifest["settings"]
        self.versions: dict[str, str] = manifest["versions"]
        self.methods = list(self.settings["methods"])
        self.metrics = list(self.settings["metrics"])
        self.models = list(manifest["models"])
        self.model_facts: dict[str, dict[str, Any]] = manifest["models"]
        self._listed: list[dict[str, Any]] = manifest["photographs"]
        self._checksums = {model: run_checksum(manifest, model) for model in self.models}
        self._notes: list[str] = manifest.get("notes", [])

    @classmethod
    def open(cls, folder: str | PathLike[str], *, delete: bool = False) -> "Comparison":
        """Open the folder of a comparison, finished or not.

        Args:
            folder: of the comparison.
            delete: delete the folder when the comparison is not used any more.

        Raises:
            ValueError: there is no comparison in the folder, or its manifest is damaged. Damaged results raise a
                `DamagedFileError`, a ValueError that names the file, when they are read.
        """
        manifest = read_manifest(Path(folder))
        if manifest is None:
            raise ValueError(f"`folder` must be the folder of a comparison, but {folder} has no {MANIFEST}.")
        comparison = cls(Path(folder), manifest)
        if delete:
            weakref.finalize(comparison, shutil.rmtree, folder, ignore_errors=True)
        return comparison

    def table(self) -> pd.DataFrame:
        """Return all values, one a row: model, photograph (its key), method, metric, value."""
        table: pd.DataFrame = self._results.table.copy()
        return table

    def failures(self) -> pd.DataFrame:
        """Return what is missing in the table: model, photograph, method, metric, reason, error.

        Method and metric are "" for a photograph as a whole, metric is "" for a method that gave no map. "error" is
        the exception's class.
        """
        failures: pd.DataFrame = self._results.failures.copy()
        return failures

    def notes(self) -> list[str]:
        """Return what to know when reading the numbers: unused boxes, windows too open or other than in training."""
        found = [*self._notes]
        for model in self.models:
            shares = self._results.window_shares[model]
            alpha, beta = self.settings["alpha"], self.settings["beta"]
            if shares and (mean := sum(shares) / len(shares)) > OPEN_WINDOWS:
                found.append(
                    f"{model}: at alpha {alpha:g} the windows hold {mean:.0%} of all pairs of patches on the average, "
                    "so that field size and tendency tell little; `vit-interactions curve` shows which alpha suits it"
                )
            doubt = "" if self.settings.get("output") else "; if that is wrong, give `output` (--output)"
            words = [SCORES[output] for output in sorted(self.outputs(model) - {"softmax"})]
            found += [f"{model}: {word}{doubt}" for word in words]
            found += other_windows(model, self.model_facts[model].get("trained", {}), alpha, beta)
        return found

    def outputs(self, model: str) -> set[Output]:
        """Return what a model's output was taken for, see `functional.scores.class_scores`.

        Empty for a model without classes, before anything was measured, and where it could not be told.
        """
        return self._results.outputs[model]

    def score_words(self, model: str) -> str:
        """Word what metrics that look at a model's score look at."""
        return "the model's value" if "value" in self.outputs(model) else "probability of the class"

    @property
    def photographs(self) -> list[dict[str, Any]]:
        """See above."""
        return self._results.photographs

    @property
    def unfinished(self) -> int:
        """How many photographs have not been measured yet, counted for each model."""
        return self._results.unfinished

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Average over photographs: model, method, metric, mean, low, high, photographs, direction.

        `low` and `high` bound the interval of the mean (bootstrap over photographs, see `compare.summary`), NaN for
        less than two photographs. `photographs` says how many have a value.

        Raises:
            ValueError: `confidence` outside [0, 1].
        """
        return summarise(self._results.table, self.directions, confidence, self.settings["seed"])

    def against(self, method: str, confidence: float = 0.95) -> pd.DataFrame:
        """Average the difference of each value from that of one method on the same photograph.

        Photographs differ more than methods do, so that these intervals tell methods apart that the intervals of
        `summary` do not: where one holds 0, the method is not told from `method`.

        Args:
            method: that the others are compared with, such as the control "random_map".
            confidence: of the intervals.

        Returns:
            Columns as of `summary`, `mean`, `low` and `high` being of the differences.

        Raises:
            ValueError: a method that was not compared, or `confidence` outside [0, 1].
        """
        if method not in self.methods:
            raise ValueError(f"`method` must be one of {', '.join(self.methods)}, but got {method!r}.")
        table = self._results.table
        other = table[table["method"] == method].drop(columns="method")
        paired = table[table["method"] != method].merge(other, on=["model", "photograph", "metric"])
        paired["value"] = paired["value_x"] - paired["value_y"]
        return summarise(paired[TABLE], self.directions, confidence, self.settings["seed"])

    @property
    def directions(self) -> dict[str, str]:
        """Which values are better, "higher", "lower" or "none", by metric; costs included."""
        own = {name: str(metric["direction"]) for name, metric in self.settings["metrics"].items()}
        return {**own, **dict.fromkeys(COSTS, "lower")}

    def agreement(self, model: str) -> pd.DataFrame:
        """Average Spearman's rank correlation of the methods' maps over photographs: (methods, methods).

        NaN for methods that share no photograph with a map of different values.
        """
        total = np.zeros((len(self.methods), len(self.methods)))
        count = np.zeros_like(total)
        for key, _ in self._units(model):
            found = (
                agreement(self._stored(model, key, "map"))
                .reindex(index=self.methods, columns=self.methods)
                .to_numpy()
            )
            count += ~np.isnan(found)
            total += np.nan_to_num(found)
        with np.errstate(invalid="ignore"):
            mean: pd.DataFrame = pd.DataFrame(total / count, index=self.methods, columns=self.methods)
        return mean

    def maps(self, model: str, key: str) -> dict[str, Array]:
        """Return the maps (rows, cols) of one photograph by method, turned so that more = more relevant."""
        return self._arrays(model, key, "map")

    def curves(self, model: str, metric: str) -> dict[str, Array]:
        """Average the curves (points, 2) of a metric over photographs, by method; empty if it has none.

        Curves over other fractions than those of the first photograph are interpolated.

        Raises:
            ValueError: an unknown model or metric.
        """
        if metric not in (*self.metrics, *COSTS):
            raise ValueError(f"`metric` must be one of {', '.join(self.metrics)}, but got {metric!r}.")
        total: dict[str, Array] = {}
        count: Counter[str] = Counter()
        for key, _ in self._units(model):
            for method, curve in self._stored(model, key, f"curve/{metric}").items():
                mean = total.setdefault(method, np.stack([curve[:, 0], np.zeros(len(curve))], 1))
                mean[:, 1] += np.interp(mean[:, 0], curve[:, 0], curve[:, 1])
                count[method] += 1
        for method, curve in total.items():
            curve[:, 1] /= count[method]
        return {method: total[method] for method in self.methods if method in total}

    def view(self, model: str, key: str) -> View:
        """Return how a model saw a photograph.

        Raises:
            ValueError: it has not been measured, or could not be.
        """
        unit = self._unit(model, key)
        if unit is None or unit.view is None:
            reason = unit.failures[0].reason if unit is not None else "it has not been measured yet"
            raise ValueError(f"`key` {key!r} has no results under model {model!r}: {reason}")
        return View.from_json(unit.view)

    def image(self, key: str) -> Image.Image:
        """Open a photograph (RGB, the way up that it was taken).

        Raises:
            ValueError: an unknown key, or a file that cannot be read any more.
            FileNotFoundError: the file is gone.
        """
        path = next((photograph["path"] for photograph in self._listed if photograph["key"] == key), None)
        if path is None:
            raise ValueError(f"`key` must be that of one of the {len(self._listed)} photographs, but got {key!r}.")
        return read_image(self.folder / path)

    def _repr_html_(self) -> str:
        """Show the tables, the maps of a few photographs and what failed in a notebook."""
        from vit_interactions.compare.report.notebook import notebook_html  # what draws, only where it is drawn

        return notebook_html(self)

    def __repr__(self) -> str:
        missing = f", {self.unfinished} measurements to do" if self.unfinished else ""
        failed = len(self._results.failures)
        missing += f", {failed} failure{'s' * (failed != 1)}: see .failures()" if failed else ""
        listed = {"method": self.methods, "metric": self.metrics, "photograph": self._listed, "model": self.models}
        counts = ", ".join(f"{len(each)} {name}{'s' * (len(each) != 1)}" for name, each in listed.items())
        return f"Comparison of {counts} in {self.folder}{missing}"

    @cached_property
    def _results(self) -> "_Results":
        """Read all units once; what is kept of each is its rows."""
        rows: list[tuple[str, str, str, str, float]] = []
        failures = []
        photographs = {listed["key"]: dict(listed) for listed in self._listed}
        shares: dict[str, list[float]] = {model: [] for model in self.models}
        outputs: dict[str, set[Output]] = {model: set() for model in self.models}
        done = 0
        errors: dict[str, str] = {}
        measured = set()
        for model in self.models:
            for key, unit in self._units(model):
                done += 1
                if unit.view is not None:
                    measured.add(key)
                    explained = View.from_json(unit.view).explained
                    if explained is not None and explained.output is not None:
                        outputs[model].add(explained.output)
                if unit.window_share is not None:
                    shares[model].append(unit.window_share)
                rows += [
                    (model, key, method, metric, unit.values[method][metric])
                    for method in self.methods
                    for metric in (*self.metrics, *COSTS)
                    if metric in unit.values.get(method, ())
                ]
                for failure in unit.failures:
                    failures.append((model, key, failure.method, failure.metric, failure.reason, failure.error))
                    if not failure.method:
                        errors.setdefault(key, failure.reason)
                if unit.size is not None or "size" not in photographs[key]:
                    photographs[key].update(sha256=unit.origin["sha256"], size=unit.size)
        for key in errors.keys() - measured:  # one that failed under some models only is there
            photographs[key]["error"] = errors[key]
        table = pd.DataFrame(rows, columns=TABLE).astype({"value": float})
        wanted = len(self.models) * len(self._listed)
        failed = pd.DataFrame(failures, columns=FAILURES)
        return _Results(table, failed, list(photographs.values()), wanted - done, shares, outputs)

    def _units(self, model: str) -> Iterator[tuple[str, Unit]]:
        """Read the units of a model in the photographs' order, those that are there."""
        for photograph in self._listed:
            unit = self._unit(model, photograph["key"])
            if unit is not None:
                yield photograph["key"], unit

    def _unit(self, model: str, key: str) -> Unit | None:
        """Read a unit; None where there is none yet.

        Raises:
            ValueError: an unknown model.
            DamagedFileError: a unit that is damaged, or not of this comparison.
        """
        if model not in self.model_facts:
            raise ValueError(f"`model` must be one of {', '.join(map(repr, self.models))}, but got {model!r}.")
        path = unit_path(self.folder, self.model_facts[model]["folder"], key)
        unit = read_unit(path)
        if unit is not None and unit.origin.get("run") != self._checksums[model]:
            raise DamagedFileError(
                f"{path} was measured with other settings, versions or weights than {MANIFEST} has: one was edited",
                "Restore it, or compare again into another folder.",
            )
        return unit

    def _arrays(self, model: str, key: str, kind: str) -> dict[str, Array]:
        if self._unit(model, key) is None:
            return {}
        return self._stored(model, key, kind)

    def _stored(self, model: str, key: str, kind: str) -> dict[str, Array]:
        """Read the arrays of a unit that is known to be there."""
        return read_arrays(unit_path(self.folder, self.model_facts[model]["folder"], key), kind)
