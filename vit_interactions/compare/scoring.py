"""Score images under one model: what the model predicts, and the maps of all methods by all metrics.

A method or metric that fails is recorded as a failure; the others are not affected.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor, nn

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.compare.maps import as_relevance
from vit_interactions.compare.models import ComparedModel
from vit_interactions.compare.records import Failure, Record
from vit_interactions.explain import ZeroMapWarning
from vit_interactions.explain.configured import ConfiguredMethod
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import PreparedImage
from vit_interactions.functional.scores import Output
from vit_interactions.images.boxes import ObjectBox
from vit_interactions.loading.predictions import model_output
from vit_interactions.metrics import Case, Metric, Score
from vit_interactions.metrics.metric import Explain
from vit_interactions.utilities.seeds import seeded


def classify(
    model: ComparedModel, image: PreparedImage, record: Record, target: int | None, output: Output | None = None
) -> Case:
    """Run a model on an image, and write its prediction, the target class, layout and placement into the record.

    Args:
        model: to run.
        image: prepared for the model.
        record: to fill.
        target: class to explain; None for the predicted class.
        output: as in `predictions.model_output`.

    Returns:
        What metrics need besides a map, without the object and the method.

    Raises:
        UnsupportedModelError: the model's patches cannot be found.
        ValueError: `target` is none of the model's classes, scores are not finite, or `output` does not fit them.
    """
    inputs = model.batch_of(image)
    layout = image_layout(model.model, inputs)
    found = model_output(model.model, inputs, output)
    if found is not None:
        if not found.outputs.isfinite().all():
            raise ValueError("the model gave NaN or infinite scores.")
        classes = len(found.outputs)
        if target is not None and not 0 <= target < classes:
            raise ValueError(f"`target` must be one of the classes 0 ... {classes - 1}, got {target}.")
        record.prediction, record.target_class = (
            found.prediction(model.model, index, named=model.named)
            for index in (found.top, found.top if target is None else target)
        )
    record.layout, record.placement = layout, image.placement
    kind_of_output = record.target_class.output if record.target_class else None
    # Without classes only localization metrics run, which ignore the target.
    return Case(model.model, inputs, record.target or 0, layout, *model.normalization, output=kind_of_output)


def choose_target(target: int | str, boxes: Sequence[ObjectBox]) -> int | None:
    """Return the class to explain; None for the predicted class.

    Args:
        target: a class, "pred" for the predicted class, or "boxes" for the class of the first box.
        boxes: of the image.

    Raises:
        ValueError: "boxes", and no box has a class.

    Example:
        >>> choose_target("boxes", [ObjectBox(0, 0, 1, 1, index=3)])
        3
    """
    if isinstance(target, int):
        return target
    if target == "pred":
        return None
    index = next((box.index for box in boxes if box.index is not None), None)
    if index is None:
        raise ValueError("target 'boxes' needs a box with a class, got none for this image.")
    return index


def score_maps(
    record: Record,
    case: Case,
    metrics: Sequence[Metric],
    settings: Settings,
    without_object: ValueError | None = None,
) -> None:
    """Measure the maps of one image, and write values, curves and failures into its record.

    Args:
        record: with the maps.
        case: from `classify`, with the seed of all random numbers, and the patches on the object.
        metrics: the metrics; each starts with the seed.
        settings: methods, alpha and beta.
        without_object: why the case does not have the patches on the object.
    """
    methods = {method.name: method for method in settings.methods}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroMapWarning)  # metrics that explain again report it where it matters
        for name, patch_map in record.maps.items():
            method = methods[name]
            asked = any("complete" in metric.needs for metric in metrics)
            complete = asked and method.create(case.model).complete
            own = replace(case, explain=_explain_again(method), complete=complete)
            for metric in metrics:
                try:
                    _check_needs(metric, record, without_object)
                    with seeded(case.seed):
                        score = metric.measure(own, torch.from_numpy(patch_map))
                    _check_score(score)
                # Custom metrics may raise anything. A failure of one must not affect the others.
                except Exception as error:
                    record.failures.append(Failure.of(error, name, metric.name))
                else:
                    record.values[name][metric.name] = float(score.value)
                    if score.curve is not None:
                        record.curves.setdefault(metric.name, {})[name] = score.curve.cpu().numpy()
    order = list(methods)
    record.failures.sort(key=lambda failure: order.index(failure.method))


def _explain_again(method: ConfiguredMethod) -> Explain:
    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        explainer = method.create(model)
        return as_relevance(explainer.patch_map(inputs, target if explainer.class_specific else None), explainer)

    return explain


def _check_needs(metric: Metric, record: Record, without_object: ValueError | None) -> None:
    if "object" in metric.needs:
        if without_object is not None:
            raise without_object.with_traceback(None)
    elif record.target_class is None:
        raise ValueError(
            "this metric needs the score of a class, but the model has no classes (its output is neither "
            "(batch, classes) nor (batch,))."
        )


def _check_score(score: Score) -> None:
    if not isinstance(score, Score):
        raise TypeError(f"the metric must return a Score, got {type(score).__name__}.")
    if not isfinite(score.value):
        raise ValueError(f"the metric must return a finite value, got {score.value}.")
