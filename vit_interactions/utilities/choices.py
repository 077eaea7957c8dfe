"""Choices and default values that the command line offers, defined where nothing imports torch."""

from typing import Literal

# It comes with the package, see `models.mini`.
DEFAULT_MODEL = "vit_mini_patch8_112.imagenette"

# What a model returns, see `functional.scores`.
Output = Literal["softmax", "sigmoid", "probabilities", "value"]
# Distributions of the contexts of a pair, see `functional.pair_effects`.
Weighting = Literal["banzhaf", "shapley_taylor"]
# Scores of pairs outside WinfT's windows: those of Eq. 9 of Ma et al., arXiv 2203.05922, and those of a plain mask.
WINDOW_FILLS = ("zero", "-inf")
# Values of α in Ma et al., arXiv 2203.05922.
PAPER_ALPHAS = (0.025, 0.05, 0.10, 0.20, 0.50, 1.0)

# The keys of `metrics.METRICS`, in its order.
METRIC_NAMES = (
    "abpc",
    "insertion",
    "deletion",
    "normalized_aopc",
    "token_insertion",
    "token_deletion",
    "average_drop",
    "average_increase",
    "average_gain",
    "road",
    "single_deletion",
    "saco",
    "infidelity",
    "sensitivity",
    "randomization",
    "completeness_error",
    "sparseness",
    "pointing_game",
    "energy_in_box",
    "iou",
    "average_precision",
    "grid_pointing_game",
)
# Three curves for sixty forward passes, and the metrics that need no pass.
DEFAULT_METRICS = (
    "abpc",
    "insertion",
    "deletion",
    "pointing_game",
    "energy_in_box",
    "iou",
    "average_precision",
)
