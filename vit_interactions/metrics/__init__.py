"""Metrics of how good a map is. `METRICS` has each metric with its default options; functions create others."""

from vit_interactions.metrics.abpc import abpc as abpc
from vit_interactions.metrics.agreement import agreement as agreement
from vit_interactions.metrics.average_precision import AVERAGE_PRECISION as AVERAGE_PRECISION
from vit_interactions.metrics.completeness_error import COMPLETENESS_ERROR as COMPLETENESS_ERROR
from vit_interactions.metrics.confidence import AVERAGE_DROP as AVERAGE_DROP
from vit_interactions.metrics.confidence import AVERAGE_GAIN as AVERAGE_GAIN
from vit_interactions.metrics.confidence import AVERAGE_INCREASE as AVERAGE_INCREASE
from vit_interactions.metrics.deletion import deletion as deletion
from vit_interactions.metrics.energy_in_box import ENERGY_IN_BOX as ENERGY_IN_BOX
from vit_interactions.metrics.grid_pointing_game import GRID_POINTING_GAME as GRID_POINTING_GAME
from vit_interactions.metrics.infidelity import infidelity as infidelity
from vit_interactions.metrics.insertion import insertion as insertion
from vit_interactions.metrics.iou import iou as iou
from vit_interactions.metrics.metric import Case as Case
from vit_interactions.metrics.metric import Metric as Metric
from vit_interactions.metrics.metric import Score as Score
from vit_interactions.metrics.normalized_aopc import normalized_aopc as normalized_aopc
from vit_interactions.metrics.pointing_game import POINTING_GAME as POINTING_GAME
from vit_interactions.metrics.randomization import randomization as randomization
from vit_interactions.metrics.road import road as road
from vit_interactions.metrics.saco import saco as saco
from vit_interactions.metrics.sensitivity import sensitivity as sensitivity
from vit_interactions.metrics.single_deletion import single_deletion as single_deletion
from vit_interactions.metrics.sparseness import SPARSENESS as SPARSENESS
from vit_interactions.metrics.token_removal import token_deletion as token_deletion
from vit_interactions.metrics.token_removal import token_insertion as token_insertion
from vit_interactions.utilities.choices import DEFAULT_METRICS as DEFAULT_METRICS

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # Removal from both ends first: it depends least on what replaces the patches.
        abpc(),
        insertion(),
        deletion(),
        normalized_aopc(),
        token_insertion(),
        token_deletion(),
        AVERAGE_DROP,
        AVERAGE_INCREASE,
        AVERAGE_GAIN,
        road(),
        single_deletion(),
        saco(),
        infidelity(),
        sensitivity(),
        randomization(),
        COMPLETENESS_ERROR,
        SPARSENESS,
        POINTING_GAME,
        ENERGY_IN_BOX,
        iou(),
        AVERAGE_PRECISION,
        GRID_POINTING_GAME,
    )
}
