"""Measure, for one image, the effects of pairs of patches and the values that each method gives to these pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.probe import token_layout
from vit_interactions.compare.models import ComparedModel
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.functional.pair_effects import PairEffects, Weighting, choose_pairs
from vit_interactions.functional.pair_scores import pair_values
from vit_interactions.loading.predictions import model_output
from vit_interactions.metrics.metric import Case
from vit_interactions.metrics.pair_curves import pair_curves
from vit_interactions.metrics.pair_effects import pair_effects
from vit_interactions.pair_study.baselines import FIRST_ORDER, free_baselines, model_baselines
from vit_interactions.utilities.text import describe_error

CURVES = "second-order insertion and deletion"  # in failures


@dataclass(frozen=True)
class PairSettings:
    """The settings of a study of pairs.

    Attributes:
        pairs: number of pairs per image, half of them near each other.
        contexts: number of random contexts per image.
        weighting: distribution of the contexts.
        steps: number of steps of second-order insertion and deletion.
        seed: of all random numbers.
    """

    pairs: int = 80
    contexts: int = 12
    weighting: Weighting = "banzhaf"
    steps: int = 10
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PairRecord:
    """The measurements of one image.

    Attributes:
        target: the predicted class.
        grid: (rows, cols) of the patches.
        effects: of the pairs.
        values: method or baseline -> (pairs,) float64.
        curves: method or baseline -> (points, 3) float64, see `metrics.pair_curves`. The product of measured effects
            has none, since it is known for the pairs only.
        failures: method, or CURVES -> reason.
    """

    target: int
    grid: tuple[int, int]
    effects: PairEffects
    values: dict[str, Tensor]
    curves: dict[str, Tensor] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON."""
        effects = self.effects
        return {
            "target": self.target,
            "grid": list(self.grid),
            "passes": effects.passes,
            "pairs": effects.pairs.tolist(),
            "differences": effects.differences.tolist(),
            "members": effects.members.tolist(),
            "gains": effects.gains.tolist(),
            "values": {name: values.tolist() for name, values in self.values.items()},
            "curves": {name: curves.tolist() for name, curves in self.curves.items()},
            "failures": self.failures,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "PairRecord":
        """Read a record from JSON.

        Raises:
            KeyError: a missing part.
            TypeError: a part of another type.
            ValueError: a part of another shape.
        """
        numbers = {name: torch.tensor(content[name], dtype=torch.float64) for name in ("differences", "gains")}
        indices = {name: torch.tensor(content[name], dtype=torch.int64) for name in ("pairs", "members")}
        effects = PairEffects(**numbers, **indices, passes=int(content["passes"]))
        values, curves = (
            {name: torch.tensor(each, dtype=torch.float64) for name, each in dict(content[part]).items()}
            for part in ("values", "curves")
        )
        count = len(effects.pairs)
        if any(part.shape != (count,) for part in values.values()) or len(effects.differences) != count:
            raise ValueError("the parts have different numbers of pairs.")
        if not curves.keys() <= values.keys() or any(part.shape[1:] != (3,) for part in curves.values()):
            raise ValueError("a curve has another shape, or its method has no values.")
        rows, cols = content["grid"]
        return cls(int(content["target"]), (rows, cols), effects, values, curves, dict(content["failures"]))


def measure_pairs(
    model: ComparedModel,
    inputs: Tensor,
    methods: Sequence[ConfiguredMethod],
    settings: PairSettings,
    seed: int,
) -> PairRecord:
    """Measure the pairs of one image, for the class that the model predicts.

    Args:
        model: the classifier.
        inputs: (1, channels, height, width), on the model's device.
        methods: methods with a `pair_map`.
        settings: of the study.
        seed: of the image's random numbers.

    Raises:
        UnsupportedModelError: a model without classes, or one whose tokens cannot be masked.
    """
    layout = token_layout(model.model, (inputs.shape[-2], inputs.shape[-1]))
    found = model_output(model.model, inputs)
    if found is None:
        raise UnsupportedModelError(
            "the model has no classes (its output is neither (batch, classes) nor (batch,)), so the effect of patches "
            "on the score of a class cannot be measured. Use a classifier."
        )
    case = Case(model.model, inputs, found.top, layout, *model.normalization, seed=seed, output=found.output)
    pairs = choose_pairs(layout.grid, settings.pairs, generator=torch.Generator().manual_seed(seed))
    effects = pair_effects(case, pairs, settings.contexts, weighting=settings.weighting)
    record = PairRecord(found.top, layout.grid, effects, {})
    for method in methods:
        explainer: Any = method.create(model.model)
        try:
            pair_map = explainer.pair_map(inputs, found.top if explainer.class_specific else None)[0]
            add_pair_map(record, case, method.name, pair_map, settings.steps)
        except (UnsupportedModelError, ValueError) as error:
            record.failures[method.name] = describe_error(error)
    for name, pair_map in model_baselines(model.model, inputs, found.top).items():
        add_pair_map(record, case, name, pair_map, settings.steps)
    record.values[FIRST_ORDER] = effects.first_order
    for name, pair_map in free_baselines(layout.grid, seed).items():
        add_pair_map(record, case, name, pair_map, settings.steps)
    return record


def add_pair_map(record: PairRecord, case: Case, name: str, pair_map: Tensor, steps: int) -> None:
    """Add the curves of a pair map and its values of the pairs to a record.

    Models without a score of no patches have no curves, which is one failure of the image.

    Args:
        record: record of the image.
        case: case of the image.
        name: of the method.
        pair_map: (patches, patches).
        steps: number of steps of the curves.

    Raises:
        ValueError: a map that is not finite.
    """
    if CURVES not in record.failures:
        try:
            record.curves[name] = pair_curves(case, pair_map, steps)
        except UnsupportedModelError as error:
            record.failures[CURVES] = describe_error(error)
    record.values[name] = pair_values(pair_map, record.effects.pairs).cpu()
