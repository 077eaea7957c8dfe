"""The metrics against those of other libraries, where these are right; where they are not, how."""

import importlib.metadata
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit_interactions.attention import token_layout
from vit_interactions.compare.metrics import METRICS, Case, deletion
from vit_interactions.compare.metrics.average_precision import average_precision
from vit_interactions.compare.metrics.energy_in_box import energy_in_box
from vit_interactions.compare.metrics.iou import intersection_over_union
from vit_interactions.compare.metrics.patch_map import relevance_ranks
from vit_interactions.compare.metrics.pixel_scores import pixel_mask
from vit_interactions.compare.metrics.pointing_game import pointing_game
from vit_interactions.compare.metrics.road import road

from .families import tiny
from .test_compare_metrics import planted_case, random_map, tiny_case
from .test_compare_metrics_localisation import INSIDE


@pytest.fixture
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def ask_quantus(metric: Any, values: Tensor, inside: Tensor) -> Any:
    """What one of its metrics of localisation says of one map."""
    images, maps, marks = (np.zeros((1, 1, 4, 4)), values.numpy()[None, None], inside.numpy()[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=None, x_batch=images, y_batch=np.array([0]), a_batch=maps, s_batch=marks, channel_first=True
        )[0]


def options() -> dict[str, Any]:
    return {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}


def test_pointing_and_energy_are_those_of_quantus(quantus: Any) -> None:
    for seed in range(20):
        values = random_map((4, 4), seed)
        values = values - values.min()
        expected = ask_quantus(quantus.PointingGame(**options()), values, INSIDE)
        assert pointing_game(values, INSIDE) == float(expected)
        expected = ask_quantus(quantus.RelevanceMassAccuracy(**options()), values, INSIDE)
        assert energy_in_box(values, INSIDE) == pytest.approx(float(expected))


def test_where_quantus_points_wrong(quantus: Any) -> None:
    if not importlib.metadata.version("quantus").startswith("0.6."):
        pytest.skip("tells of Quantus 0.6")
    # A tie is a hit to it as soon as one of the highest patches lies in the box: here 4 of 15.
    values = torch.ones(4, 4, dtype=torch.float64)
    values[0, 0] = 0.5
    assert ask_quantus(quantus.PointingGame(**options()), values, INSIDE)
    assert pointing_game(values, INSIDE) == pytest.approx(4 / 15)
    # The share of the mass is no share where values are negative.
    values = torch.tensor([[-1.0, 0.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 3.0, 0.0]] * 2, dtype=torch.float64)
    mass = ask_quantus(quantus.RelevanceMassAccuracy(**options()), values, values > 0)
    assert mass == pytest.approx(1.5)
    assert energy_in_box(values, values > 0) <= 1


def grey_case() -> Case:
    """A model of one channel, whose pixels Quantus does not mistake for features of several."""
    model = tiny("vit_tiny_patch16_224", img_size=64, in_chans=1).eval()
    inputs = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    return Case(model, inputs, 2, token_layout(model, (64, 64)), mean=(0.0,), std=(1.0,))


def test_deletion_is_the_pixel_flipping_of_quantus(quantus: Any) -> None:
    case, values = grey_case(), random_map((4, 4), 3)
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
        with pytest.raises(AttributeError, match="trapz"):  # its area does not know NumPy 2.4
            flip(return_auc_per_sample=True)


def test_iou_and_average_precision_are_those_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    for seed in range(10):
        values = (random_map((4, 4), seed) * 7).round() / 7  # with ties
        scaled = (values - values.min()) / (values.max() - values.min())
        jaccard = classification.BinaryJaccardIndex(threshold=0.4999)  # strictly above, where ours may be equal
        assert intersection_over_union(values, INSIDE) == pytest.approx(
            float(jaccard(scaled, INSIDE.int())), abs=1e-6
        )
        precision = classification.BinaryAveragePrecision()
        expected = float(precision(scaled.flatten(), INSIDE.flatten().int()))
        assert average_precision(values, INSIDE) == pytest.approx(expected, abs=1e-6)


def test_torchmetrics_takes_maps_beyond_1_for_logits() -> None:
    """Far from 0 its sigmoid makes ties of different values: a map must be scaled before it is given there."""
    classification = pytest.importorskip("torchmetrics.classification")
    values = torch.linspace(100, 400, 16, dtype=torch.float32).reshape(4, 4)
    theirs = float(classification.BinaryAveragePrecision()(values.flatten(), INSIDE.flatten().int()))
    assert theirs == pytest.approx(0.25)
    assert average_precision(values, INSIDE) > 0.3


def test_average_precision_is_that_of_scikit_learn() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        values = (random_map((4, 4), seed) * 7).round()
        expected = learn.average_precision_score(INSIDE.flatten().numpy(), values.flatten().numpy())
        assert average_precision(values, INSIDE) == pytest.approx(float(expected))


def softmax_targets(case: Case) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    return [ClassifierOutputSoftmaxTarget(case.target)]


def test_drop_and_increase_are_those_of_grad_cam() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    case, values = tiny_case(), random_map((3, 6), 1)
    scaled = (values - values.min()) / (values.max() - values.min())
    pixels = nn.functional.interpolate(scaled[None, None], size=(48, 96), mode="bilinear")[0].numpy()
    with torch.no_grad():
        full = float(case.model(case.inputs).softmax(1)[0, case.target])
    theirs = float(metrics.DropInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0])
    ours = METRICS["average_drop"].measure(case, values).value
    assert ours == pytest.approx(theirs / full, abs=1e-5)  # theirs is not divided by the probability
    increased = metrics.IncreaseInConfidence()(case.inputs, pixels, softmax_targets(case), case.model)[0]
    assert METRICS["average_increase"].measure(case, values).value == float(increased)
    # Theirs takes the map as it is: ten times the map is another score.
    tenfold = float(metrics.DropInConfidence()(case.inputs, 10 * pixels, softmax_targets(case), case.model)[0])
    assert abs(tenfold - theirs) > 1e-3
    assert METRICS["average_drop"].measure(tiny_case(), 10 * values).value == pytest.approx(ours, abs=1e-9)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_is_that_of_grad_cam_on_maps_without_ties() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.road")
    case = planted_case(torch.rand(1, 3, 64, 64), model=tiny("vit_tiny_patch16_224", img_size=64).double())
    values = random_map((4, 4), 5)
    # A percentile inside a patch takes the whole patch: 25, 50 and 75 % of 16 patches lie between patches.
    ranks = 1 - relevance_ranks(values, 0).double() / 15
    cams = pixel_mask(ranks.unsqueeze(0), case.layout, (64, 64)).numpy()
    torch.manual_seed(0)
    in_float32 = FromFloat32(case.model)
    theirs = metrics.ROADCombined(percentiles=[25, 50, 75])(
        case.inputs.float(), cams.astype(np.float32), softmax_targets(case), in_float32
    )
    ours = road((0.25, 0.5, 0.75), noise=0.01).measure(case, values)
    assert ours.value == pytest.approx(float(theirs[0]), abs=0.01)  # noise drawn otherwise
    assert ours.curve is not None
    assert float(ours.curve[:, 1].abs().max()) > 0.02


class FromFloat32(nn.Module):
    """A model of float64 for what makes float32 of its images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(images.double())
        return output


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_grad_cam_removes_everything_from_sparse_and_constant_maps() -> None:
    """Why ours ranks patches itself: the threshold is the map's lowest value, and nothing lies strictly below it."""
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.road")

    def keep_count(image: Tensor, mask: Tensor) -> Tensor:
        return mask.mean()

    sparse = torch.zeros(8, 8)
    sparse[0, 0] = 1.0
    for cam in (sparse, torch.ones(8, 8)):
        assert float(metrics.RemoveMostRelevantFirst(80, keep_count)(torch.zeros(3, 8, 8), cam)) == 0.0
    # Ours removes the share that it states: one patch of 16 is relevant, and 3 of 16 are removed.
    case, values = planted_case(), torch.zeros(4, 4)
    values[0, 0] = 1.0
    curve = road((0.2,)).measure(case, values).curve
    assert curve is not None
    assert float(curve[0, 0]) == 3 / 16
