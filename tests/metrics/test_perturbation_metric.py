"""Deletion and insertion against loops over patches, values computed by hand, and other libraries."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.other_metrics import gray_case, options, quantus_score, to_pixels, torchcam_scores
from tests.helpers.planted import (
    STRENGTH,
    ask_plainly,
    count_images,
    planted_case,
    planted_map,
    random_map,
    sigmoid,
    tiny_case,
)
from vit_interactions.metrics import METRICS, Case, Metric, abpc, deletion, insertion
from vit_interactions.metrics.baseline import BASELINES, baseline_image
from vit_interactions.metrics.pixel_scores import pixel_mask


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("steps", [1, 5, 18, 40])
def test_curves_equal_a_loop_over_patches(baseline: str, steps: int) -> None:
    case = tiny_case()
    values = random_map(case.layout.grid, 1)
    order = sorted(np.ndindex(3, 6), key=lambda place: -float(values[place]))
    nothing = baseline_image(case.inputs, baseline, case.mean, case.std)[0]
    curves: dict[str, list[tuple[float, float]]] = {"deletion": [], "insertion": [], "abpc": []}
    counts = sorted({round(18 * step / steps) for step in range(steps + 1)})
    for count in counts:
        images = {
            "deletion": (case.inputs[0], nothing, order[:count]),
            "insertion": (nothing, case.inputs[0], order[:count]),
            "least": (case.inputs[0], nothing, order[::-1][:count]),
        }
        scores = {}
        for name, (start, other, places) in images.items():
            image = start.clone()
            for row, col in places:
                cell = (slice(None), slice(16 * row, 16 * row + 16), slice(16 * col, 16 * col + 16))
                image[cell] = other[cell]
            scores[name] = ask_plainly(case, image)
        curves["deletion"].append((count / 18, scores["deletion"]))
        curves["insertion"].append((count / 18, scores["insertion"]))
        curves["abpc"].append((count / 18, scores["least"] - scores["deletion"]))
    for kind in (deletion, insertion, abpc):
        metric: Metric = kind(baseline, steps)
        score = metric.measure(case, values)
        assert score.curve is not None
        expected = curves[metric.name]
        torch.testing.assert_close(score.curve, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        widths = [(after[0] - before[0]) for before, after in itertools.pairwise(expected)]
        heights = [(after[1] + before[1]) / 2 for before, after in itertools.pairwise(expected)]
        assert score.value == pytest.approx(sum(w * h for w, h in zip(widths, heights, strict=True)), abs=1e-12)
    # The effect of the patches is far above the tolerance.
    assert len({round(score, 3) for _, score in curves["deletion"]}) > min(len(counts), 4) - 1


def test_areas_of_the_planted_patch_by_hand() -> None:
    """P = sigmoid(4) if the red patch is shown, and p = 1/2 if it is removed."""
    case, values = planted_case(), planted_map()[0]
    high, low = sigmoid(STRENGTH), 0.5
    assert deletion(steps=16).measure(case, values).value == pytest.approx(low + (high - low) / 32)
    assert insertion("mean", steps=16).measure(case, values).value == pytest.approx(high - (high - low) / 32)
    assert abpc(steps=16).measure(case, values).value == pytest.approx((high - low) * 15 / 16)
    # Black is -2 after normalization, in each channel.
    black = deletion("zero", steps=16).measure(case, values).curve
    assert black is not None
    for removed in (1, 2, 16):
        logits = (STRENGTH / 2 * -2 * removed, STRENGTH * -2 * removed)
        assert float(black[removed, 1]) == pytest.approx(sigmoid(logits[1] - logits[0]))


def test_no_image_is_scored_twice() -> None:
    case = tiny_case()
    sizes, values = count_images(case.model), random_map(case.layout.grid, 1)
    first = deletion(steps=9).measure(case, values)
    assert sum(sizes) == 10
    alone = abpc(steps=9).measure(case, values)
    assert sum(sizes) == 10 + 8
    METRICS["average_drop"].measure(case, values)
    METRICS["average_gain"].measure(case, values)
    assert sum(sizes) == 10 + 8 + 1
    # Another map of the same image and model shares the first and last point.
    other = tiny_case(model=case.model, scores=case.scores)
    deletion(steps=9).measure(other, -values)
    assert sum(sizes) == 19, "the same images: MoRF of the negative map is LeRF"
    deletion(steps=9).measure(other, random_map(case.layout.grid, 7))
    assert sum(sizes) == 19 + 8
    # Cached scores equal recomputed ones.
    assert deletion(steps=9).measure(tiny_case(), values).value == pytest.approx(first.value, abs=1e-12)
    assert abpc(steps=9).measure(tiny_case(), values).value == pytest.approx(alone.value, abs=1e-12)


def test_images_go_through_the_model_in_chunks() -> None:
    case = tiny_case()
    sizes = count_images(case.model)
    insertion(steps=18).measure(case, random_map(case.layout.grid, 1))
    assert sizes == [16, 3]


def test_non_finite_outputs_for_perturbed_images_raise() -> None:
    case = planted_case()
    with torch.no_grad():
        case.model.get_parameter("head.bias")[0] = float("nan")
    with pytest.raises(ValueError, match="output for a perturbed image is not finite"):
        deletion().measure(case, planted_map()[0])


def test_deletion_equals_quantus_pixel_flipping(quantus: Any) -> None:
    case, values = gray_case(), random_map((4, 4), 3)
    flipping = quantus.PixelFlipping(features_in_step=256, perturb_baseline=0.0, **options())
    theirs = quantus_score(flipping, case, to_pixels(values))[0]
    curve = deletion(steps=16).measure(case, values).curve
    assert curve is not None
    np.testing.assert_allclose(curve[1:, 1].numpy(), theirs, atol=1e-6)


def test_insertion_equals_quantus_pixel_flipping_from_the_baseline(quantus: Any) -> None:
    case, values = gray_case(), random_map((4, 4), 4)
    original = case.inputs.flatten(1).numpy()

    def restore(arr: np.ndarray[Any, Any], indices: np.ndarray[Any, Any], **_: Any) -> np.ndarray[Any, Any]:
        restored = arr.copy()
        restored[:, indices[0]] = original[:, indices[0]]
        return restored

    flipping = quantus.PixelFlipping(features_in_step=256, perturb_func=restore, **options())
    blurred = baseline_image(case.inputs, "blur", case.mean, case.std).numpy()
    theirs = quantus_score(flipping, case, to_pixels(values), x_batch=blurred)[0]
    curve = insertion(steps=16).measure(case, values).curve
    assert curve is not None
    np.testing.assert_allclose(curve[1:, 1].numpy(), theirs, atol=1e-6)
    assert np.ptp(theirs) > 1e-3


def patchwise(values: Tensor, case: Case) -> Tensor:
    """Expand a map to the size of the image."""
    return pixel_mask(values.unsqueeze(0), case.layout, (case.inputs.shape[-2], case.inputs.shape[-1]))[0]


@pytest.mark.parametrize("baseline", ["mean", "blur", "zero"])
def test_insertion_and_deletion_equal_torchcam(baseline: str) -> None:
    for seed in range(3):
        case, values = tiny_case(), random_map((3, 6), seed)
        nothing = baseline_image(case.inputs, baseline, case.mean, case.std)
        given = {"steps": 18, "baseline": None if baseline == "mean" else nothing}  # the default is the mean color
        theirs = torchcam_scores("DeletionInsertionMetric", case, patchwise(values, case), **given)
        for metric in (deletion(baseline, steps=18), insertion(baseline, steps=18)):
            expected = theirs[f"{metric.name}_auc"]
            assert metric.measure(case, values).value == pytest.approx(expected, abs=1e-6)


def test_deletion_of_a_planted_patch_equals_torchcam() -> None:
    case, values = planted_case(), random_map((4, 4), 1)
    theirs = torchcam_scores("DeletionInsertionMetric", case, patchwise(values, case), steps=16)["deletion_auc"]
    assert deletion(steps=16).measure(case, values).value == pytest.approx(theirs)


def test_constant_maps_raise() -> None:
    with pytest.raises(ValueError, match="the same value, 1, at all 16 patches"):
        deletion(steps=16).measure(planted_case(), torch.ones(4, 4).double())
