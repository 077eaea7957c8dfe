"""Null models: what they keep, what they destroy, and that they favor no patch."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from vit_interactions.functional.field_claims import image_center, object_center
from vit_interactions.functional.null_models import (
    central_patches,
    derangements,
    distance_only,
    noise_like,
    shuffle_rows,
)
from vit_interactions.functional.windows import relevant_pairs

GRID = (3, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_uncertainty(batch: int = 2) -> Tensor:
    return torch.rand(batch, 12, 12, generator=seeded(9))


def test_shuffled_rows_keep_their_values_in_another_order() -> None:
    uncertainty = random_uncertainty()
    shuffled = shuffle_rows(uncertainty, seeded())
    assert torch.equal(shuffled.sort(-1).values, uncertainty.sort(-1).values)
    assert not torch.equal(shuffled, uncertainty)
    assert torch.equal(shuffled, shuffle_rows(uncertainty, seeded()))
    assert not torch.equal(shuffled, shuffle_rows(uncertainty, seeded(1)))


def test_excluded_columns_stay_and_all_others_are_shuffled() -> None:
    uncertainty, exclude = random_uncertainty(), torch.zeros(2, 12, dtype=torch.bool)
    exclude[0, [2, 11]] = True
    found = shuffle_rows(uncertainty, seeded(), exclude)
    for image in range(2):
        kept = ~exclude[image]
        assert torch.equal(found[image][:, ~kept], uncertainty[image][:, ~kept])
        assert torch.equal(found[image][:, kept].sort(-1).values, uncertainty[image][:, kept].sort(-1).values)
        assert ((found[image] != uncertainty[image]).any(0) == kept).all()
    assert torch.equal(found[1], shuffle_rows(uncertainty, seeded())[1])  # no column of it is excluded
    with pytest.raises(ValueError, match="`exclude` must be bool of shape"):
        shuffle_rows(uncertainty, seeded(), exclude[:1])


def test_shuffling_moves_a_value_to_each_place_equally_often_and_each_row_by_itself() -> None:
    rows = torch.arange(4.0).expand(4000, 4, 4)
    place = (shuffle_rows(rows, seeded()) == 0).int().argmax(-1)  # where the first value of each row went
    for row in range(4):
        shares = place[:, row].bincount(minlength=4) / 4000
        assert (shares - 0.25).abs().max() < 0.03  # four standard deviations
    assert abs((place[:, 0] == place[:, 1]).float().mean() - 0.25) < 0.03


@pytest.mark.parametrize("excluded", [None, [0, 5]])
def test_distance_only_is_the_mean_over_pairs_at_the_same_distance(excluded: list[int] | None) -> None:
    uncertainty, exclude = random_uncertainty(), torch.zeros(2, 12, dtype=torch.bool)
    exclude[1, excluded or []] = True
    found = distance_only(uncertainty, GRID, seeded(), exclude if excluded else None)
    for image in range(2):
        pairs: dict[int, list[tuple[int, int]]] = {}
        for p in range(12):
            for q in range(12):
                pairs.setdefault((p // 4 - q // 4) ** 2 + (p % 4 - q % 4) ** 2, []).append((p, q))
        for alike in pairs.values():
            counted = [float(uncertainty[image, p, q]) for p, q in alike if not exclude[image, q]]
            mean = sum(counted) / len(counted)
            for p, q in alike:
                assert float(found[image, p, q]) == pytest.approx(mean, rel=2e-9)


def test_ties_of_equal_distance_are_broken_at_random() -> None:
    # With equal values, the lowest index would win: all relevant pairs would be in the first rows of U.
    equal = torch.ones(200, 12, 12)
    relevant = relevant_pairs(distance_only(equal, GRID, seeded()), 0.25).double().mean(0)
    assert (relevant - 0.25).abs().max() < 0.15
    assert relevant_pairs(equal, 0.25)[0, :3].all()


def test_noise_has_the_mean_and_deviation_of_each_channel() -> None:
    scale, shift = torch.tensor([0.5, 1.0, 4.0]).view(3, 1, 1), torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1)
    image = torch.rand(1, 3, 200, 200, generator=seeded(3)) * scale + shift
    noise = noise_like(image, seeded())
    for channel in range(3):
        width = float(scale[channel]) / 12**0.5  # of a uniform distribution
        assert float(noise[0, channel].mean()) == pytest.approx(
            float((shift + scale / 2)[channel]), abs=width / 40
        )
        assert float(noise[0, channel].std()) == pytest.approx(width, rel=0.02)
    assert torch.equal(noise, noise_like(image, seeded()))
    assert noise_like(image.half(), seeded()).dtype == torch.float16


def test_derangements_leave_no_image_with_itself_and_are_equally_likely() -> None:
    drawn = derangements(4, 3000, seeded())
    assert drawn.sort(1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert not (drawn == torch.arange(4)).any()
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 9  # 4! (1/2! - 1/3! + 1/4!)
    assert max(abs(count / 3000 - 1 / 9) for count in counts.values()) < 0.025
    with pytest.raises(ValueError, match="`count` must be at least 2, got 1"):
        derangements(1, 1, seeded())


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (3, 4), (1, 5)])
def test_central_patches_lie_around_the_center(grid: tuple[int, int]) -> None:
    center = image_center(grid)
    for count in range(1, grid[0] * grid[1] + 1):
        inside = central_patches(count, grid)
        assert int(inside.sum()) >= count
        assert torch.equal(object_center(inside, grid), center)  # no side is favored
    assert central_patches(1, (3, 3)).nonzero().flatten().tolist() == [4]
    assert central_patches(5, (3, 3)).nonzero().flatten().tolist() == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("count", [0, 7])
def test_central_patches_rejects_a_count_that_the_grid_does_not_have(count: int) -> None:
    # Index -1 of the sorted distances would mark all patches for a count of 0.
    with pytest.raises(ValueError, match=rf"`count` must lie in \[1, 6\], got {count}"):
        central_patches(count, (2, 3))
