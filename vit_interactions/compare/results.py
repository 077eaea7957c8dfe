"""The results of a comparison, read from its folder."""

import shutil
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from vit_interactions.compare.cost import COSTS
from vit_interactions.compare.manifest import MANIFEST, ListedImage, read_manifest, run_checksum
from vit_interactions.compare.records import Record, read_record, record_path
from vit_interactions.compare.summary import summarize, with_costs
from vit_interactions.explain.settings import OPEN_WINDOWS
from vit_interactions.functional.scores import Output
from vit_interactions.images.reading import read_image
from vit_interactions.metrics import agreement
from vit_interactions.models.trained_windows import other_windows
from vit_interactions.utilities.arrays import Array
from vit_interactions.utilities.checks import check_choice
from vit_interactions.utilities.json_files import DamagedFileError
from vit_interactions.utilities.text import plural

TABLE = ["model", "image", "target", "method", "metric", "value"]
FAILURES = ["model", "image", "method", "metric", "reason", "error"]
OUTPUTS: dict[Output, str] = {
    "sigmoid": "the probability of a class is the sigmoid of its output",
    "probabilities": "the outputs are used as probabilities, unchanged",
    "value": "the output is a value, not a probability, and metrics are in its units",
}

Opened = TypeVar("Opened", bound="Results")


@dataclass
class _Numbers:
    """The numbers of all records, read in one pass; see the properties of `Results`."""

    table: pd.DataFrame
    failures: pd.DataFrame
    images: list[ListedImage]
    unfinished: int
    window_fractions: dict[str, list[float]]
    outputs: dict[str, set[Output]]
    sink_counts: dict[str, list[int]]


class Results:
    """All data of a comparison in a folder, finished or not.

    Attributes:
        folder: of the comparison.
        settings: target, output, alpha, beta, coverage, exclude_sinks, seed, batch_size; "methods": a description of
            each; "metrics": direction, range, source, parameters, needs and cost of each.
        versions: of Python and of the packages.
        images: as listed; with size and SHA-256, or the error, once they have been read.
        models: names.
        model_facts: device, preprocessing with the mean and standard deviation ("normalization"), SHA-256 of weights
            and of the code that uses them ("architecture"), whether the classes are those of timm's own weights
            ("named"), and alpha and beta of the training if known, by model.
        methods: names.
        metrics: names; tables also have the costs of a map ("seconds", "forwards", "peak_memory").
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Create the results of a folder from the content of its manifest; use `open` to read it."""
        self.folder = folder
        self.settings: dict[str, Any] = manifest["settings"]
        self.versions: dict[str, str] = manifest["versions"]
        self.methods = list(self.settings["methods"])
        self.metrics = list(self.settings["metrics"])
        self.models = list(manifest["models"])
        self.model_facts: dict[str, dict[str, Any]] = manifest["models"]
        self._listed = [ListedImage.from_json(image) for image in manifest["images"]]
        self._checksums = {model: run_checksum(manifest, model) for model in self.models}
        self._notes: list[str] = manifest.get("notes", [])
        self._means: dict[str, tuple[dict[str, dict[str, Array]], pd.DataFrame]] = {}

    @classmethod
    def open(cls: type[Opened], folder: str | PathLike[str], *, delete: bool = False) -> Opened:
        """Open the folder of a comparison, finished or not.

        Args:
            folder: of the comparison.
            delete: delete the folder with the object.

        Raises:
            ValueError: no comparison in the folder, or its manifest is damaged. Damaged results raise a
                `DamagedFileError`, a ValueError that names the file, when they are read.
        """
        manifest = read_manifest(Path(folder))
        if manifest is None:
            raise ValueError(f"`folder` must be that of a comparison, got {folder}, which has no {MANIFEST}.")
        results = cls(Path(folder), manifest)
        if delete:
            weakref.finalize(results, shutil.rmtree, folder, ignore_errors=True)
        return results

    def table(self) -> pd.DataFrame:
        """Return all values, one per row: model, image (its key), target, method, metric, value, direction.

        `target` is the index of the target class, missing for a model without classes. `direction` is "higher", "lower"
        or "none", see `directions`.
        """
        numbers = self._numbers.table
        table: pd.DataFrame = numbers.assign(direction=numbers["metric"].map(self.directions))
        return table

    def failures(self) -> pd.DataFrame:
        """Return why values are missing in the table: model, image, method, metric, reason, error.

        Method and metric are "" if the image as a whole failed, metric is "" if the method gave no map. "error" is the
        class of the exception.
        """
        failures: pd.DataFrame = self._numbers.failures.copy()
        return failures

    def notes(self) -> list[str]:
        """Return remarks on the numbers: unused boxes, attention sinks, open windows, or others than in training."""
        found = [*self._notes]
        for model in self.models:
            fractions = self._numbers.window_fractions[model]
            alpha, beta = self.settings["alpha"], self.settings["beta"]
            if fractions and (mean := sum(fractions) / len(fractions)) > OPEN_WINDOWS:
                found.append(
                    f"{model}: at alpha {alpha:g} the windows cover {mean:.0%} of all patch pairs on average, so field "
                    "size and tendency mean little; `vit-interactions curve` helps to choose alpha"
                )
            counts, excluded = self._numbers.sink_counts[model], self.settings["exclude_sinks"]
            found += filter(None, [sinks_note(model, counts, excluded=excluded)])
            doubt = "" if self.settings.get("output") else "; if that is wrong, give `output` (--output)"
            found += [f"{model}: {OUTPUTS[output]}{doubt}" for output in sorted(self.outputs(model) - {"softmax"})]
            trained = self.model_facts[model].get("trained", {})
            found += other_windows(model, trained, alpha, beta, self.settings["coverage"], excluded)
        return found

    def outputs(self, model: str) -> set[Output]:
        """Return how a model's output was interpreted, see `functional.scores.class_scores`.

        Empty for a model without classes, before anything was measured, and if unknown.
        """
        return self._numbers.outputs[model]

    def score_name(self, model: str) -> str:
        """Return the name of the score that metrics of removal plot."""
        return "the model's value" if "value" in self.outputs(model) else "probability of the class"

    @property
    def images(self) -> list[ListedImage]:
        """See above."""
        return self._numbers.images

    @property
    def unfinished(self) -> int:
        """Number of images that have not been measured yet, counted per model."""
        return self._numbers.unfinished

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Return means over images, one per row, with the cost of a map by the method.

        Args:
            confidence: of the intervals.

        Returns:
            Columns model, method, metric, mean; low and high, the confidence interval of the mean (bootstrap over
            images, see `compare.summary`), NaN for fewer than two images; images, the number with a value; direction;
            and cost, forward_passes and backward_passes, see `compare.summary.with_costs`.

        Raises:
            ValueError: `confidence` outside [0, 1].
        """
        means = summarize(self._numbers.table, self.directions, confidence, self.settings["seed"])
        return with_costs(means, self.settings["methods"])

    def against(self, method: str, confidence: float = 0.95) -> pd.DataFrame:
        """Return the mean differences from one method on the same images.

        Images differ more than methods do, so these intervals separate methods that the intervals of `summary` do not.
        If an interval contains 0, its method does not differ significantly from `method`.

        Args:
            method: to compare with, such as the baseline "random_map".
            confidence: of the intervals.

        Returns:
            Columns as in `summary`, without the costs; `mean`, `low` and `high` are those of the differences.

        Raises:
            ValueError: a method that was not compared, or `confidence` outside [0, 1].
        """
        if method not in self.methods:
            raise ValueError(f"`method` must be one of {', '.join(self.methods)}, got {method!r}.")
        table = self._numbers.table
        other = table.loc[table["method"] == method, ["model", "image", "metric", "value"]]
        paired = table[table["method"] != method].merge(other, on=["model", "image", "metric"])
        paired["value"] = paired["value_x"] - paired["value_y"]
        return summarize(paired[TABLE], self.directions, confidence, self.settings["seed"])

    @property
    def directions(self) -> dict[str, str]:
        """The better direction of each metric and cost: "higher", "lower" or "none"."""
        own = {name: str(metric["direction"]) for name, metric in self.settings["metrics"].items()}
        return {**own, **dict.fromkeys(COSTS, "lower")}

    def agreement(self, model: str) -> pd.DataFrame:
        """Return Spearman's rank correlation of the methods' maps, averaged over images: (methods, methods).

        NaN for methods that share no image on which both maps vary.

        Raises:
            ValueError: an unknown model.
        """
        correlations: pd.DataFrame = self._array_means(model)[1].copy()
        return correlations

    def curves(self, model: str, metric: str) -> dict[str, Array]:
        """Return the curves (points, 2) of a metric by method, averaged over images; empty if it has none.

        Curves over other fractions than those of the first image are interpolated.

        Raises:
            ValueError: an unknown model or metric.
        """
        if metric not in (*self.metrics, *COSTS):
            raise ValueError(f"`metric` must be one of {', '.join(self.metrics)}, got {metric!r}.")
        curves, _ = self._array_means(model)
        return {method: curve.copy() for method, curve in curves.get(metric, {}).items()}

    def records(
        self, model: str, keys: Iterable[str] | None = None, *, arrays: bool = True
    ) -> Iterator[tuple[str, Record]]:
        """Yield key and record of the images that have been measured under a model, in order.

        Args:
            model: name.
            keys: of the images; None for all, in the order of `images`.
            arrays: read maps and curves too.

        Raises:
            ValueError: an unknown model.
            DamagedFileError: a record that is damaged, or not of this comparison.
        """
        check_choice("model", model, tuple(self.models))
        for key in [image.key for image in self._listed] if keys is None else keys:
            path = record_path(self.folder, self.model_facts[model]["folder"], key)
            record = read_record(path, arrays=arrays)
            if record is None:
                continue
            if record.origin.get("run") != self._checksums[model]:
                raise DamagedFileError(
                    f"{path} was measured with other settings, versions or weights than {MANIFEST} has: one was edited",
                    "Restore it, or compare again into another folder.",
                )
            yield key, record

    def record(self, model: str, key: str) -> Record:
        """Return all results for one image under one model.

        Raises:
            ValueError: it has not been measured, or failed.
        """
        _, record = next(self.records(model, [key]), ("", None))
        reason = "it has not been measured yet" if record is None else record.error
        if record is None or reason is not None:
            raise ValueError(f"`key` {key!r} has no results under model {model!r}: {reason}")
        return record

    def maps(self, model: str, key: str) -> dict[str, Array]:
        """Return the maps (rows, cols) of one image by method, higher is more relevant; empty if it has none."""
        return next((record.maps for _, record in self.records(model, [key])), {})

    def image(self, key: str) -> Image.Image:
        """Open an image (RGB, upright).

        Raises:
            ValueError: an unknown key, or a file that can no longer be read.
            FileNotFoundError: the file is gone.
        """
        path = next((image.path for image in self._listed if image.key == key), None)
        if path is None:
            raise ValueError(f"`key` must be that of one of the {len(self._listed)} images, got {key!r}.")
        return read_image(self.folder / path)

    def __repr__(self) -> str:
        missing = f", {self.unfinished} measurements missing" if self.unfinished else ""
        failed = len(self._numbers.failures)
        missing += f", {plural(failed, 'failure')}: see .failures()" if failed else ""
        listed = {"method": self.methods, "metric": self.metrics, "image": self._listed, "model": self.models}
        counts = ", ".join(plural(len(each), name) for name, each in listed.items())
        return f"{type(self).__name__} of {counts} in {self.folder}{missing}"

    @cached_property
    def _numbers(self) -> _Numbers:
        """Read the numbers of all records in one pass; arrays, whose loading takes ten times as long, stay unread."""
        rows: list[tuple[str, str, int | None, str, str, float]] = []
        failures = []
        images = {image.key: image for image in self._listed}
        fractions: dict[str, list[float]] = {model: [] for model in self.models}
        outputs: dict[str, set[Output]] = {model: set() for model in self.models}
        sinks: dict[str, list[int]] = {model: [] for model in self.models}
        errors: dict[str, str] = {}
        measured = []
        for model in self.models:
            for key, record in self.records(model, arrays=False):
                if record.error is not None:
                    errors.setdefault(key, record.error)
                measured.append((key, record.error is None))
                if record.target_class is not None and record.target_class.output is not None:
                    outputs[model].add(record.target_class.output)
                if record.window_fraction is not None:
                    fractions[model].append(record.window_fraction)
                if record.sink_patches is not None:
                    sinks[model].append(record.sink_patches)
                rows += [
                    (model, key, record.target, method, metric, record.values[method][metric])
                    for method in self.methods
                    for metric in (*self.metrics, *COSTS)
                    if metric in record.values.get(method, ())
                ]
                failures += [(model, key, f.method, f.metric, f.reason, f.error) for f in record.failures]
                if record.size is not None or images[key].size is None:
                    images[key] = replace(images[key], size=record.size, sha256=record.origin["sha256"])
        for key in errors.keys() - {key for key, succeeded in measured if succeeded}:
            images[key] = replace(images[key], error=errors[key])
        unfinished = len(self.models) * len(self._listed) - len(measured)
        table = pd.DataFrame(rows, columns=TABLE).astype({"value": float, "target": "Int64"})
        failed = pd.DataFrame(failures, columns=FAILURES)
        return _Numbers(table, failed, list(images.values()), unfinished, fractions, outputs, sinks)

    def _array_means(self, model: str) -> tuple[dict[str, dict[str, Array]], pd.DataFrame]:
        """Average the curves of all metrics and the agreement over images, in one pass over a model's arrays."""
        if model in self._means:
            return self._means[model]
        curves: dict[str, dict[str, Array]] = defaultdict(dict)
        curve_counts: Counter[tuple[str, str]] = Counter()
        total = np.zeros((len(self.methods), len(self.methods)))
        count = np.zeros_like(total)
        for _, record in self.records(model):
            for metric, by_method in record.curves.items():
                for method, curve in by_method.items():
                    mean = curves[metric].setdefault(method, np.stack([curve[:, 0], np.zeros(len(curve))], 1))
                    mean[:, 1] += np.interp(mean[:, 0], curve[:, 0], curve[:, 1])
                    curve_counts[metric, method] += 1
            found = agreement(record.maps).reindex(index=self.methods, columns=self.methods).to_numpy()
            count += ~np.isnan(found)
            total += np.nan_to_num(found)
        for (metric, method), number in curve_counts.items():
            curves[metric][method][:, 1] /= number
        ordered = {
            metric: {method: by_method[method] for method in self.methods if method in by_method}
            for metric, by_method in curves.items()
        }
        with np.errstate(invalid="ignore"):
            correlations = pd.DataFrame(total / count, index=self.methods, columns=self.methods)
        self._means[model] = ordered, correlations
        return self._means[model]


def sinks_note(model: str, counts: list[int], *, excluded: bool) -> str:
    """Describe the attention sinks of a model, from the number of sink patches per image; "" if there are none.

    Example:
        >>> sinks_note("vit", [0, 3, 4], excluded=True)
        'vit: attention sinks in 2 of 3 images, on average 3.5 patches, left out of patch interactions and rollout'
    """
    found = [count for count in counts if count]
    if not found:
        return ""
    advice = ", left out of patch interactions and rollout" if excluded else "; `--exclude-sinks` leaves them out"
    return (
        f"{model}: attention sinks in {len(found)} of {plural(len(counts), 'image')}, on average "
        f"{sum(found) / len(found):.1f} patches{advice}"
    )
