"""Means over images with confidence intervals, and paired differences between reality and each null model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vit_interactions.compare.csv_files import csv_text
from vit_interactions.compare.summary import summarize_differences
from vit_interactions.field_study.measure import CLAIMS, CONTROLS, REAL
from vit_interactions.field_study.rows import Measured
from vit_interactions.utilities.files import write_text
from vit_interactions.utilities.json_files import write_json

TABLE, JSON = "results.csv", "results.json"


def summarize_claims(measured: Sequence[Measured], seed: int = 0) -> pd.DataFrame:
    """Average each claim over images, under each control.

    Args:
        measured: values of each image, from `measure_image`; at least one image.
        seed: of the bootstrap, which resamples images.

    Returns:
        One row per alpha, claim and control: `mean` with its 95% confidence interval from `low` to `high`, the number
        of `images` with a value, and `difference`, the mean over images of the real value minus that of the control,
        with its interval. All intervals use the same resamples. NaN where there is no value.
    """
    keys = [
        (alpha, claim, control)
        for alpha in dict.fromkeys(a for a, _ in measured[0])
        for claim in CLAIMS
        for control in CONTROLS
    ]
    values = np.array([[image[alpha, control][claim] for alpha, claim, control in keys] for image in measured])
    real = [keys.index((alpha, claim, REAL)) for alpha, claim, _ in keys]
    differences = values[:, real] - values
    differences[:, real] = np.nan  # of reality to itself
    keyed = pd.DataFrame(keys, columns=["alpha", "claim", "control"])
    table: pd.DataFrame = keyed.join(summarize_differences(values, differences, seed))
    return table


def write_results(results: pd.DataFrame, folder: Path) -> None:
    """Write the results of a study as CSV and as JSON, in which missing values are null."""
    write_text(folder / TABLE, csv_text(results))
    records = results.astype(object).where(results.notna(), None).to_dict("records")
    write_json(folder / JSON, {"results": records})
