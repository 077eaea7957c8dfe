"""ROAD's imputation and scores against loops and other libraries."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import tiny
from tests.helpers.other_metrics import softmax_targets
from tests.helpers.planted import (
    ask_plainly,
    planted_case,
    random_map,
    tiny_case,
)
from vit_interactions.metrics.patch_map import relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_mask
from vit_interactions.metrics.road import impute, road


def test_imputation_solves_the_neighbor_equations() -> None:
    """Each hidden pixel is the weighted mean of its existing neighbors: 1/6 for edges, 1/12 for corners."""
    image = torch.rand(3, 8, 9, dtype=torch.float64)
    original = image.clone()
    shown = random_map((8, 9), 0) > 0.6
    filled = impute(image, shown, noise=0.0, seed=0)
    assert torch.equal(image, original)
    assert torch.equal(filled[:, shown], image[:, shown])
    for y, x in (~shown).nonzero().tolist():
        total, weights = torch.zeros(3, dtype=torch.float64), 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 8 and 0 <= x + dx < 9:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    total += weight * filled[:, y + dy, x + dx]
                    weights += weight
        torch.testing.assert_close(filled[:, y, x], total / weights, atol=1e-9, rtol=0)
    noisy = impute(image, shown, noise=0.1, seed=3)
    assert torch.equal(noisy, impute(image, shown, noise=0.1, seed=3))
    assert 0.05 < float((noisy - filled)[:, ~shown].std()) < 0.15


def test_road_by_a_loop() -> None:
    case, values = tiny_case(), random_map((3, 6), 2)
    order = sorted(np.ndindex(3, 6), key=lambda place: -float(values[place]))
    differences = []
    for count in (4, 9):  # 0.2 and 0.5 of 18
        scores = []
        for places in (order[:count], order[::-1][:count]):
            shown = torch.ones(48, 96, dtype=torch.bool)
            for row, col in places:
                shown[16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = False
            scores.append(ask_plainly(case, impute(case.inputs[0], shown, noise=0.01, seed=case.seed)))
        differences.append(scores[1] - scores[0])
    score = road((0.2, 0.5)).measure(case, values)
    assert score.value == pytest.approx(sum(differences) / 4, abs=1e-12)
    assert score.curve is not None
    torch.testing.assert_close(score.curve[:, 0], torch.tensor([4 / 18, 9 / 18], dtype=torch.float64))
    torch.testing.assert_close(
        score.curve[:, 1], torch.tensor(differences, dtype=torch.float64), atol=1e-12, rtol=0
    )


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


class FromFloat32(nn.Module):
    """A wrapper that passes float32 images to a float64 model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(images.double())
        return output


def test_the_stated_fraction_of_a_sparse_map_is_removed() -> None:
    case, values = planted_case(), torch.zeros(4, 4)
    values[0, 0] = 1.0
    curve = road((0.2,)).measure(case, values).curve
    assert curve is not None
    assert float(curve[0, 0]) == 3 / 16
