"""How good a map is: `METRICS` names the standard choice of each metric, and functions of its name make others."""

from vit_interactions.compare.metrics.energy_in_box import ENERGY_IN_BOX as ENERGY_IN_BOX
from vit_interactions.compare.metrics.iou import iou as iou
from vit_interactions.compare.metrics.metric import Case as Case
from vit_interactions.compare.metrics.metric import Metric as Metric
from vit_interactions.compare.metrics.metric import Score as Score
from vit_interactions.compare.metrics.pointing_game import POINTING_GAME as POINTING_GAME

METRICS: dict[str, Metric] = {metric.name: metric for metric in (POINTING_GAME, ENERGY_IN_BOX, iou())}
DEFAULT_METRICS: tuple[str, ...] = ("pointing_game", "energy_in_box")
