"""Second-order insertion and deletion: each point, a planted group by hand, a random map, and the shared passes."""

import pytest
import torch
from torch import Tensor

from tests.helpers.families import FAMILIES
from tests.helpers.token_cases import case_of
from vit_interactions.functional.pair_order import greedy_pair_order
from vit_interactions.metrics import Case, pair_curves
from vit_interactions.metrics.pair_curves import pair_areas
from vit_interactions.metrics.token_scores import token_scores


def drawn(patches: int, seed: int = 0) -> Tensor:
    return torch.rand(patches, patches, generator=torch.Generator().manual_seed(seed))


def test_each_point_is_the_score_with_all_other_tokens_masked() -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build().double(), family.images().double(), seed=4)
    pair_map = drawn(case.layout.patches)
    curves = pair_curves.pair_curves(case, pair_map, 3)
    plain = case_of(case.model, case.inputs, seed=4)
    for column, lowest in ((1, False), (2, True)):
        order = greedy_pair_order(pair_map, lowest=lowest, seed=4)
        for fraction, score in curves[:, [0, column]].tolist():
            shown = torch.zeros(1, case.layout.patches, dtype=torch.bool)
            shown[0, order[: round(fraction * case.layout.patches)]] = True
            expected = token_scores(plain, shown.view(1, *case.layout.grid))
            assert score == pytest.approx(float(expected), abs=1e-12)
    assert curves[:, 0].tolist() == [0, 5 / 16, 11 / 16, 1]
    assert curves[0, 1] == curves[0, 2] != curves[-1, 1] == curves[-1, 2]


def test_maps_share_the_passes_of_none_and_all() -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    pair_curves.pair_curves(case, drawn(16), 4)
    assert len(case.scores) == 2 * 3 + 2
    pair_curves.pair_curves(case, drawn(16, seed=1), 4)
    assert len(case.scores) == 4 * 3 + 2


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Let the score be 1 if patches 5, 6, 9 and 10 are all shown, else 0; return the map of their pairs."""
    members = [5, 6, 9, 10]

    def scores(case: Case, shown: Tensor) -> Tensor:
        return shown.flatten(1)[:, members].all(1).double()

    monkeypatch.setattr(pair_curves, "token_scores", scores)
    inside = torch.zeros(16)
    inside[members] = 1.0
    return inside.outer(inside)


def test_a_planted_group_by_hand(group: Tensor) -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    curves = pair_curves.pair_curves(case, group, 4)
    assert curves.tolist() == [[0, 0, 0], [0.25, 1, 0], [0.5, 1, 0], [0.75, 1, 0], [1, 1, 1]]
    # Trapezoids of width 1/4: (1/2 + 1 + 1 + 1) / 4 and (0 + 0 + 0 + 1/2) / 4.
    assert pair_areas(curves) == {"pair_insertion": 0.875, "pair_deletion": 0.125, "pair_area": 0.75}
    opposite = pair_areas(pair_curves.pair_curves(case, -group, 4))
    assert opposite == {"pair_insertion": 0.125, "pair_deletion": 0.875, "pair_area": -0.75}


def test_random_maps_have_no_area_on_average(group: Tensor) -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    areas = [pair_areas(pair_curves.pair_curves(case, drawn(16, seed), 8))["pair_area"] for seed in range(200)]
    assert abs(sum(areas) / 200) < 0.03


def test_arguments() -> None:
    family = FAMILIES["vit"]
    case = case_of(family.build(), family.images())
    with pytest.raises(ValueError, match=r"`pair_map` must have shape \(16, 16\), got \(4, 4\)"):
        pair_curves.pair_curves(case, torch.zeros(4, 4))
    with pytest.raises(ValueError, match="`steps` must be"):
        pair_curves.pair_curves(case, torch.zeros(16, 16), 0)
