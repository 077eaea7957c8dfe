"""The metrics against those of other libraries, and known differences."""

import contextlib
import dataclasses
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from tests.helpers.families import tiny
from tests.helpers.planted import INSIDE, planted_case, random_map, tiny_case
from vit_interactions.attention import token_layout
from vit_interactions.metrics import METRICS, Case, abpc, agreement, deletion, insertion
from vit_interactions.metrics import infidelity as make_infidelity
from vit_interactions.metrics import sensitivity as make_sensitivity
from vit_interactions.metrics.average_precision import average_precision
from vit_interactions.metrics.baseline import baseline_image
from vit_interactions.metrics.energy_in_box import energy_in_box
from vit_interactions.metrics.iou import intersection_over_union
from vit_interactions.metrics.patch_map import relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_mask
from vit_interactions.metrics.pointing_game import pointing_game
from vit_interactions.metrics.rerun import rerun_method
from vit_interactions.metrics.road import road
from vit_interactions.utilities.seeds import seeded


@pytest.fixture
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def quantus_localization(metric: Any, values: Tensor, inside: Tensor) -> Any:
    """Return the value of one of Quantus' localization metrics for one map."""
    images, maps, marks = (np.zeros((1, 1, 4, 4)), values.numpy()[None, None], inside.numpy()[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=None, x_batch=images, y_batch=np.array([0]), a_batch=maps, s_batch=marks, channel_first=True
        )[0]


def options() -> dict[str, Any]:
    return {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}


def test_pointing_game_and_energy_equal_quantus(quantus: Any) -> None:
    for seed in range(20):
        values = random_map((4, 4), seed)
        values = values - values.min()
        expected = quantus_localization(quantus.PointingGame(**options()), values, INSIDE)
        assert pointing_game(values, INSIDE) == float(expected)
        expected = quantus_localization(quantus.RelevanceMassAccuracy(**options()), values, INSIDE)
        assert energy_in_box(values, INSIDE) == pytest.approx(float(expected))


def test_known_errors_of_quantus_pointing_game_and_energy(quantus: Any) -> None:
    require_quantus_06()
    # Quantus counts a tie as a hit if any of the highest patches lies in the box: here 4 of 15.
    values = torch.ones(4, 4, dtype=torch.float64)
    values[0, 0] = 0.5
    assert quantus_localization(quantus.PointingGame(**options()), values, INSIDE)
    assert pointing_game(values, INSIDE) == pytest.approx(4 / 15)
    # Its fraction of the mass can exceed 1 if values are negative.
    values = torch.tensor([[-1.0, 0.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 3.0, 0.0]] * 2, dtype=torch.float64)
    mass = quantus_localization(quantus.RelevanceMassAccuracy(**options()), values, values > 0)
    assert mass == pytest.approx(1.5)
    assert energy_in_box(values, values > 0) <= 1


def require_quantus_06() -> None:
    """Skip checks of known errors in Quantus 0.6 if another version is installed."""
    if not importlib.metadata.version("quantus").startswith("0.6."):
        pytest.skip("known errors of Quantus 0.6")


def test_energy_equals_quantus_attribution_localisation_except_for_single_images(quantus: Any) -> None:
    values = random_map((4, 4), 3)
    values = values - values.min()
    with np.errstate(divide="ignore"):  # it divides by the size of all images but the first two
        found = quantus_localization(quantus.AttributionLocalisation(**options()), values, INSIDE)
        assert energy_in_box(values, INSIDE) == pytest.approx(float(found))
        require_quantus_06()
        weighted = quantus_localization(
            quantus.AttributionLocalisation(weighted=True, **options()), values, INSIDE
        )
    assert np.isinf(weighted), "weighted by 4 of 16 pixels it would be a quarter"


def gray_case() -> Case:
    """Return a case with one channel, so that Quantus' features are pixels."""
    model = tiny("vit_tiny_patch16_224", img_size=64, in_chans=1).eval()
    inputs = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    return Case(model, inputs, 2, token_layout(model, (64, 64)), mean=(0.0,), std=(1.0,))


def test_deletion_equals_quantus_pixel_flipping(quantus: Any) -> None:
    case, values = gray_case(), random_map((4, 4), 3)
    pixels = values.repeat_interleave(16, 0).repeat_interleave(16, 1).numpy()[None, None]

    def flip(**more: Any) -> Any:
        metric = quantus.PixelFlipping(features_in_step=256, perturb_baseline=0.0, **options(), **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return metric(
                model=case.model,
                x_batch=case.inputs.numpy(),
                y_batch=np.array([case.target]),
                a_batch=pixels,
                channel_first=True,
                softmax=True,
                device="cpu",
            )[0]

    curve = deletion(steps=16).measure(case, values).curve
    assert curve is not None
    np.testing.assert_allclose(curve[1:, 1].numpy(), flip(), atol=1e-6)
    if importlib.metadata.version("quantus").startswith("0.6.") and not hasattr(np, "trapz"):
        with pytest.raises(AttributeError, match="trapz"):  # not compatible with NumPy 2.4
            flip(return_auc_per_sample=True)


def to_pixels(values: Tensor) -> np.ndarray[Any, Any]:
    """Expand a map (rows, cols) to (1, 1, height, width)."""
    pixels: np.ndarray[Any, Any] = values.repeat_interleave(16, 0).repeat_interleave(16, 1).numpy()[None, None]
    return pixels


def quantus_score(metric: Any, case: Case, pixels: np.ndarray[Any, Any], **more: Any) -> Any:
    """Return the value of one of Quantus' metrics that run the model, for one map."""
    given = {
        "x_batch": case.inputs.float().numpy(),
        "channel_first": True,
        "softmax": True,
        "device": "cpu",
        **more,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(model=case.model, y_batch=np.array([case.target]), a_batch=pixels, **given)


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


def test_abpc_equals_quantus_region_perturbation_in_both_orders(quantus: Any) -> None:
    case, values = gray_case(), random_map((4, 4), 5)

    def falls(order: str) -> np.ndarray[Any, Any]:
        metric = quantus.RegionPerturbation(
            patch_size=16, order=order, regions_evaluation=16, perturb_baseline=0.0, **options()
        )
        return np.asarray(quantus_score(metric, case, to_pixels(values))[0])

    curve = abpc(steps=16).measure(case, values).curve
    assert curve is not None
    # Its curves are probability drops, so their difference has the opposite sign.
    np.testing.assert_allclose(curve[1:, 1].numpy(), falls("morf") - falls("lerf"), atol=1e-6)
    assert float(curve[:, 1].abs().max()) > 1e-3


def test_infidelity_equals_quantus_on_its_subsets_at_the_best_scale(
    quantus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantus removes patches in reading order, not in random subsets, and does not rescale the map."""
    case, values = gray_case(), random_map((4, 4), 6) - 0.3
    removed = torch.ones(16, 16).tril().bool().reshape(16, 4, 4)
    module = sys.modules[make_infidelity.__module__]
    monkeypatch.setattr(module, "draw_subsets", lambda *_: removed)
    ours = make_infidelity(samples=16).measure(case, values).value
    with torch.no_grad():
        left = case.inputs * ~pixel_mask(removed, case.layout, (64, 64)).unsqueeze(1)
        whole, *probabilities = case.model(torch.cat([case.inputs, left])).softmax(1)[:, case.target].tolist()
    falls = whole - np.array(probabilities)
    sums = (removed * values).sum((1, 2)).numpy()
    best = (falls * sums).sum() / (sums**2).sum()

    def theirs(scale: float, samples: int = 1) -> float:
        # Quantus treats the map as a gradient and multiplies it by the change of each pixel.
        gradient = to_pixels(scale * values) / 256 / case.inputs.double().numpy()
        given = {"perturb_patch_sizes": [16], "perturb_baseline": 0.0, "n_perturb_samples": samples}
        metric = quantus.Infidelity(**given, **options())
        return float(quantus_score(metric, case, gradient)[0])

    assert ours == pytest.approx(theirs(best), rel=1e-3)
    assert ours == pytest.approx(((best * sums - falls) ** 2).mean(), rel=1e-4)
    # In Quantus, the scale of the map changes the score, and more samples repeat the same sample.
    assert theirs(10 * best) > 10 * theirs(best)
    assert make_infidelity(samples=16).measure(case, 10 * values).value == pytest.approx(ours, rel=1e-6)
    require_quantus_06()
    assert theirs(best, samples=3) == pytest.approx(theirs(best), rel=1e-6)


def gradient_maps(model: nn.Module, images: Tensor, target: int) -> Tensor:
    """A method: input times gradient, summed over the pixels of each patch."""
    images = images.detach().requires_grad_()
    [gradient] = torch.autograd.grad(model(images)[:, target].sum(), images)
    rows, cols = images.shape[-2] // 16, images.shape[-1] // 16
    return (gradient * images).detach().unflatten(3, (cols, 16)).unflatten(2, (rows, 16)).sum((1, 3, 5))


def explaining(case: Case) -> Case:
    return dataclasses.replace(case, explain=gradient_maps, seed=5)


def explain_for_quantus(case: Case) -> Any:
    def maps(model: nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
        found = rerun_method(case, model, torch.as_tensor(inputs).to(case.inputs.dtype))
        return np.concatenate([to_pixels(each) for each in found])

    return maps


def test_sensitivity_equals_quantus_with_the_same_noise(quantus: Any) -> None:
    case = explaining(gray_case())
    patch_map = rerun_method(case, case.model, case.inputs)[0]
    ours = make_sensitivity(radius=0.1, samples=10).measure(case, patch_map).value
    torch.manual_seed(5)
    noise = iter(torch.FloatTensor(10, 1, 64, 64).uniform_(-0.1, 0.1).flatten(1).numpy())

    def perturb(arr: np.ndarray[Any, Any], indices: Any, **_: Any) -> np.ndarray[Any, Any]:
        moved: np.ndarray[Any, Any] = arr + next(noise)
        return moved

    metric = quantus.MaxSensitivity(nr_samples=10, perturb_func=perturb, **options())
    theirs = quantus_score(metric, case, to_pixels(patch_map), explain_func=explain_for_quantus(case))[0]
    assert ours == pytest.approx(float(theirs), rel=1e-4)
    assert ours > 1e-3


def test_randomization_correlations_equal_quantus_mprt(quantus: Any) -> None:
    case = explaining(gray_case())
    patch_map = rerun_method(case, case.model, case.inputs)[0]
    maps = explain_for_quantus(case)

    def ask(**more: Any) -> Any:
        metric = quantus.MPRT(
            similarity_func=quantus.similarity_func.correlation_spearman, **{**options(), **more}
        )
        return quantus_score(metric, case, to_pixels(patch_map), explain_func=maps)

    theirs = ask()
    assert theirs.pop("original") == pytest.approx([1])
    wrapped = quantus.helpers.model.pytorch_model.PyTorchModel(case.model, channel_first=True)
    weights = []
    for name, changed in wrapped.get_random_layer_generator(seed=42):
        ours = spearmanr(patch_map.flatten(), rerun_method(case, changed, case.inputs)[0].flatten())
        assert theirs[name] == pytest.approx([ours.statistic], abs=1e-9)
        if name.endswith("attn.qkv"):
            weights.append(changed.get_submodule(name).weight.clone())
    assert len(theirs) > 10
    require_quantus_06()
    # Error in Quantus: each layer is drawn with the same seed, so all blocks get the same weights.
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    assert len(weights) > 1
    # Error in Quantus: the average includes the correlation of the map with itself.
    [average] = ask(return_average_correlation=True)
    values = [value for [value] in theirs.values()]
    assert average == pytest.approx((1 + sum(values)) / (1 + len(values)))
    assert average > np.mean(values) + 0.01


def test_agreement_equals_torchmetrics() -> None:
    rank_correlation = pytest.importorskip("torchmetrics.functional.regression").spearman_corrcoef
    for seed in range(10):
        one, other = ((random_map((4, 4), seed + place) * 7).round() for place in (0, 50))  # with ties
        expected = rank_correlation(one.flatten(), other.flatten())
        found = agreement({"one": one.numpy(), "other": other.numpy()}).loc["one", "other"]
        assert found == pytest.approx(float(expected), abs=1e-5)
    # A constant map has no ranks. torchmetrics returns 0, as if the maps were unrelated.
    constant = torch.ones(16)
    assert float(rank_correlation(constant, constant)) == 0
    assert agreement({"constant": constant.numpy()}).isna().all(axis=None)


def test_iou_and_average_precision_equal_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    for seed in range(10):
        values = (random_map((4, 4), seed) * 7).round() / 7  # with ties
        scaled = (values - values.min()) / (values.max() - values.min())
        jaccard = classification.BinaryJaccardIndex(threshold=0.4999)  # excludes the threshold; ours includes it
        assert intersection_over_union(values, INSIDE) == pytest.approx(
            float(jaccard(scaled, INSIDE.int())), abs=1e-6
        )
        precision = classification.BinaryAveragePrecision()
        expected = float(precision(scaled.flatten(), INSIDE.flatten().int()))
        assert average_precision(values, INSIDE) == pytest.approx(expected, abs=1e-6)


def test_iou_includes_the_threshold_and_torchmetrics_does_not() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    values, inside = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[False, True, True]])
    assert intersection_over_union(values, inside, 0.5) == 1.0
    assert float(classification.BinaryJaccardIndex(threshold=0.5)(values, inside.int())) == 0.5


def test_torchmetrics_treats_maps_above_1_as_logits() -> None:
    """Its sigmoid saturates to ties far from 0, so maps must be scaled to [0, 1] before they are passed to it."""
    classification = pytest.importorskip("torchmetrics.classification")
    values = torch.linspace(100, 400, 16, dtype=torch.float32).reshape(4, 4)
    theirs = float(classification.BinaryAveragePrecision()(values.flatten(), INSIDE.flatten().int()))
    assert theirs == pytest.approx(0.25)
    assert average_precision(values, INSIDE) > 0.3


def test_average_precision_equals_scikit_learn() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        values = (random_map((4, 4), seed) * 7).round()
        expected = learn.average_precision_score(INSIDE.flatten().numpy(), values.flatten().numpy())
        assert average_precision(values, INSIDE) == pytest.approx(float(expected))


def softmax_targets(case: Case) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    return [ClassifierOutputSoftmaxTarget(case.target)]


def test_drop_and_increase_equal_grad_cam() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    case, values = tiny_case(), random_map((3, 6), 1)
    scaled = (values - values.min()) / (values.max() - values.min())
    pixels = nn.functional.interpolate(scaled[None, None], size=(48, 96), mode="bilinear")[0].numpy()
    with torch.no_grad():
        full = float(case.model(case.inputs).softmax(1)[0, case.target])
    theirs = float(metrics.DropInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0])
    ours = METRICS["average_drop"].measure(case, values).value
    assert ours == pytest.approx(theirs / full, abs=1e-5)  # grad-cam does not divide by the probability
    increased = metrics.IncreaseInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0]
    assert METRICS["average_increase"].measure(case, values).value == float(increased)
    # grad-cam does not rescale the map, so ten times the map has another score.
    tenfold = float(metrics.DropInConfidence()(case.inputs, 10 * pixels, softmax_targets(case), case.model)[0])
    assert abs(tenfold - theirs) > 1e-3
    assert METRICS["average_drop"].measure(tiny_case(), 10 * values).value == pytest.approx(ours, abs=1e-9)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_equals_grad_cam_without_ties() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.road")
    case = planted_case(torch.rand(1, 3, 64, 64), model=tiny("vit_tiny_patch16_224", img_size=64).double())
    values = random_map((4, 4), 5)
    # A percentile inside a patch would remove the whole patch; 25%, 50% and 75% of 16 patches lie between patches.
    ranks = 1 - relevance_ranks(values, 0).double() / 15
    cams = pixel_mask(ranks.unsqueeze(0), case.layout, (64, 64)).numpy()
    torch.manual_seed(0)
    in_float32 = FromFloat32(case.model)
    theirs = metrics.ROADCombined(percentiles=[25, 50, 75])(
        case.inputs.float(), cams.astype(np.float32), softmax_targets(case), in_float32
    )
    ours = road((0.25, 0.5, 0.75), noise=0.01).measure(case, values)
    assert ours.value == pytest.approx(float(theirs[0]), abs=0.01)  # different noise
    assert ours.curve is not None
    assert float(ours.curve[:, 1].abs().max()) > 0.02


def test_quantus_road_scores_whether_the_class_stays_on_top(quantus: Any) -> None:
    case = gray_case()
    with torch.no_grad():
        predicted = int(case.model(case.inputs).argmax())
    metric = quantus.ROAD(percentages=[25, 50], **options())
    for target in range(3):
        own = dataclasses.replace(case, target=target)
        with seeded(0):  # of its noise
            found = quantus_score(metric, own, to_pixels(random_map((4, 4), 5)))
        assert set(found) == {25, 50}
        assert set(found.values()) <= {0.0, 1.0}
        # A class that was never the top class scores 0, whatever its probability.
        assert target == predicted or set(found.values()) == {0.0}
    assert METRICS["road"].parameters["score"] == "by `output`"


class FromFloat32(nn.Module):
    """A wrapper that passes float32 images to a float64 model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(images.double())
        return output


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_grad_cam_road_removes_the_whole_image_of_sparse_and_constant_maps() -> None:
    """Its threshold is the map's lowest value, and no value is below it. Ours ranks the patches instead."""
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.road")

    def keep_count(image: Tensor, mask: Tensor) -> Tensor:
        return mask.mean()

    sparse = torch.zeros(8, 8)
    sparse[0, 0] = 1.0
    for cam in (sparse, torch.ones(8, 8)):
        assert float(metrics.RemoveMostRelevantFirst(80, keep_count)(torch.zeros(3, 8, 8), cam)) == 0.0
    # Ours removes the stated fraction: one patch of 16 is relevant, and 3 of 16 are removed.
    case, values = planted_case(), torch.zeros(4, 4)
    values[0, 0] = 1.0
    curve = road((0.2,)).measure(case, values).curve
    assert curve is not None
    assert float(curve[0, 0]) == 3 / 16


class FixedMap:
    """A map (rows, cols) with the interface of torch-cam's explainers."""

    def __init__(self, case: Case, values: Tensor) -> None:
        self.model, self.values = case.model, values

    def __call__(self, class_idx: Any = None, scores: Any = None, **_: Any) -> list[Tensor]:
        return [self.values.unsqueeze(0)]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


def torchcam_scores(kind: str, case: Case, values: Tensor, **more: Any) -> dict[str, float]:
    metrics = pytest.importorskip("torchcam.metrics")
    metric = getattr(metrics, kind)(FixedMap(case, values), lambda logits: logits.softmax(-1), **more)
    metric.update(case.inputs, case.target)
    found: dict[str, float] = metric.summary()
    return found


def patchwise(values: Tensor, case: Case) -> Tensor:
    """Expand a map to the size of the image."""
    return pixel_mask(values.unsqueeze(0), case.layout, (case.inputs.shape[-2], case.inputs.shape[-1]))[0]


def test_drop_and_increase_equal_torchcam() -> None:
    for seed in range(5):
        case, values = tiny_case(), random_map((3, 6), seed)
        scaled = (values - values.min()) / (values.max() - values.min())
        theirs = torchcam_scores("ClassificationMetric", case, scaled)
        assert METRICS["average_drop"].measure(case, values).value == pytest.approx(theirs["avg_drop"], abs=1e-5)
        assert METRICS["average_increase"].measure(case, values).value == theirs["conf_increase"]


def test_torchcam_underestimates_the_drop_of_rare_classes() -> None:
    """torch-cam adds 1e-7 to the denominator, so a class with probability 1e-7 drops by half instead of fully."""

    class Rare(nn.Module):
        """A model whose class has probability 1e-7 for bright images and almost 0 for dim ones."""

        def forward(self, images: Tensor) -> Tensor:
            log = 40 * images.mean((1, 2, 3)) - 40 + np.log(1e-7)
            return torch.stack([torch.zeros_like(log), log], 1)

    case = dataclasses.replace(tiny_case(), model=Rare(), inputs=torch.ones(1, 3, 48, 96).double(), target=1)
    values = torch.zeros(3, 6).double()
    values[0, 0] = 1.0
    assert METRICS["average_drop"].measure(case, values).value == pytest.approx(1, abs=1e-3)
    assert torchcam_scores("ClassificationMetric", case, values)["avg_drop"] == pytest.approx(0.5, abs=1e-3)


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


def test_torchcam_ranks_interpolated_pixels_and_breaks_ties_from_the_top() -> None:
    """The reasons why ours ranks patches, with ties in random order."""
    case, values = planted_case(), random_map((4, 4), 1)
    high, low = float(torch.tensor(4.0, dtype=torch.float64).sigmoid()), 0.5  # with and without the red patch
    by_patch = torchcam_scores("DeletionInsertionMetric", case, patchwise(values, case), steps=16)["deletion_auc"]
    assert deletion(steps=16).measure(case, values).value == pytest.approx(by_patch)
    # torch-cam resizes the map smoothly, so it removes parts of many patches at once.
    by_pixel = torchcam_scores("DeletionInsertionMetric", case, values, steps=16)["deletion_auc"]
    assert abs(by_pixel - by_patch) > 0.01
    # The score of a constant map depends on the position of the object, so rotating the image changes it.
    constant = torch.ones(4, 4).double()
    scores = []
    for inputs in (case.inputs, case.inputs.flip(2, 3)):
        turned = dataclasses.replace(case, inputs=inputs, scores={})
        scores.append(torchcam_scores("DeletionInsertionMetric", turned, constant, steps=16)["deletion_auc"])
        with pytest.raises(ValueError, match="the same value, 1, at all 16 patches"):
            deletion(steps=16).measure(turned, constant)
    # The red patch is removed with the second row of patches, or with the third: 4 of 16 steps later.
    assert scores[1] - scores[0] == pytest.approx((high - low) * 4 / 16, abs=1e-6)
