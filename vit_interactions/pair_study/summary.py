"""Scores of pair maps per image, and their means over images with intervals.

The scores are rank correlations with measured effects, and the areas of second-order insertion and deletion.
"""

from collections.abc import Mapping
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from vit_interactions.compare.csv_files import csv_text
from vit_interactions.compare.summary import summarize_differences
from vit_interactions.functional.pair_scores import pair_distances, rank_correlation
from vit_interactions.metrics.pair_curves import pair_areas
from vit_interactions.pair_study.baselines import ATTENTION, CLOSENESS, FIRST_ORDER, PASSES
from vit_interactions.pair_study.measure import PairRecord
from vit_interactions.utilities.files import write_text

RELIABILITY = "reliability"  # correlation between strengths from halves of the contexts
CORRELATIONS = ("spearman", "beyond_distance", "beyond_first_order")
AREAS = ("pair_insertion", "pair_deletion", "pair_area")
SCORES = CORRELATIONS + AREAS
PAIRS, SUMMARY = "pairs.csv", "summary.csv"


def correlations(record: PairRecord) -> dict[str, dict[str, float]]:
    """Correlate the values of each method with the strength of the effects of one image.

    Returns:
        Method or baseline -> score -> rank correlation: "spearman"; "beyond_distance", with the distance of the patches
        partialled out; and "beyond_first_order", with the distance and |s_i s_j| partialled out. Baselines that are
        themselves partialled out have NaN there. "reliability" is the same between halves of the contexts.
    """
    effects = record.effects
    strength, distance = effects.strength, pair_distances(effects.pairs, record.grid)
    covariates = dict(zip(CORRELATIONS, ((), (distance,), (distance, effects.first_order)), strict=True))
    excluded = {CLOSENESS: CORRELATIONS[1:], FIRST_ORDER: CORRELATIONS[2:]}
    found = {RELIABILITY: {score: effects.reliability(given) for score, given in covariates.items()}}
    for name, values in record.values.items():
        found[name] = {
            score: nan if score in excluded.get(name, ()) else rank_correlation(values, strength, given)
            for score, given in covariates.items()
        }
    return found


def scores(record: PairRecord) -> dict[str, dict[str, float]]:
    """Return all scores of one image: method or baseline -> score -> value, see `correlations` and `pair_areas`."""
    found = correlations(record)
    for name, curves in record.curves.items():
        found[name] |= pair_areas(curves)
    return found


def summarize_pairs(
    records: Mapping[str, PairRecord], passes: Mapping[str, tuple[int, int]], seed: int = 0
) -> pd.DataFrame:
    """Average the rank correlations and the areas over images.

    Args:
        records: image -> its record; at least one.
        passes: method -> forward and backward passes per image.
        seed: of the bootstrap, which resamples images.

    Returns:
        One row per method and score: `mean` with its 95% confidence interval from `low` to `high`, the number of
        `images` with a value, and `difference`, the mean over images of the value minus that of mean attention, with
        its interval; `forwards` and `backwards`, the passes per image of the map; and `scoring_forwards`, those that
        measure its score: the effects, which all methods share, or the curves. Two more, of all patches and of none,
        are shared. All intervals use the same resamples.
    """
    each = [scores(record) for record in records.values()]
    names = list(dict.fromkeys(name for image in each for name in image))
    keys = [(name, score) for name in names for score in SCORES]
    values = np.array([[image.get(name, {}).get(score, nan) for name, score in keys] for image in each])
    differences = values - values[:, [keys.index((ATTENTION, score)) for _, score in keys]]
    differences[:, [name == ATTENTION for name, _ in keys]] = nan  # to itself
    effect_passes = float(np.mean([record.effects.passes for record in records.values()]))
    points = [len(curves) for record in records.values() for curves in record.curves.values()]
    curve_passes = float(np.mean(points)) - 2 if points else nan
    scoring = dict(zip(SCORES, [effect_passes] * 3 + [curve_passes * each for each in (1, 1, 2)], strict=True))
    costs = {RELIABILITY: (effect_passes, 0), **PASSES, **passes}
    keyed = pd.DataFrame(keys, columns=["method", "score"])
    table: pd.DataFrame = keyed.join(summarize_differences(values, differences, seed))
    table["forwards"], table["backwards"] = zip(*(costs[name] for name, _ in keys), strict=True)
    table["scoring_forwards"] = [scoring[score] for _, score in keys]
    return table


def pair_table(records: Mapping[str, PairRecord]) -> pd.DataFrame:
    """Arrange the measured pairs: one row per image and pair, with the effect and the value of each method."""
    frames = []
    for image, record in records.items():
        effects = record.effects
        first, second = effects.pairs.unbind(1)
        frame = pd.DataFrame(
            {
                "image": image,
                "target": record.target,
                "first": first.numpy(),
                "second": second.numpy(),
                "distance": pair_distances(effects.pairs, record.grid).numpy(),
                "index": effects.index.numpy(),
                "standard_error": effects.standard_error.numpy(),
                "strength": effects.strength.numpy(),
                **{name: values.numpy() for name, values in record.values.items()},
            }
        )
        frames.append(frame)
    table: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return table


def write_tables(records: Mapping[str, PairRecord], summary: pd.DataFrame, folder: Path) -> None:
    """Write the pairs and the summary as CSV files."""
    write_text(folder / PAIRS, csv_text(pair_table(records)))
    write_text(folder / SUMMARY, csv_text(summary))
