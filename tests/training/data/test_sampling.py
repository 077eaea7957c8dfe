"""Batch samplers and seeded augmentation: reproducible, and independent of processes and workers."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.draws import Draws
from vit_interactions.training.data.sampling import SeededDataset, TrainingBatchSampler

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def test_epoch_takes_each_image_at_most_once_in_its_own_order() -> None:
    batches = TrainingBatchSampler(23, 5, seed=3)
    epochs = []
    for batches.epoch in range(3):
        keys = [key for batch in batches for key in batch]
        assert {epoch for epoch, _ in keys} == {batches.epoch}
        indices = [index for _, index in keys]
        assert len(indices) == len(set(indices)) == 20
        assert set(indices) <= set(range(23))
        epochs.append(indices)
    assert epochs[0] != epochs[1] != epochs[2]
    batches.epoch = 1
    assert [index for batch in batches for _, index in batch] == epochs[1]
    assert [i for b in TrainingBatchSampler(23, 5, seed=4) for _, i in b] != epochs[0]


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_step_has_the_same_images_however_it_is_divided(world: int, parts: int) -> None:
    whole = [set(batch) for batch in TrainingBatchSampler(50, 8)]
    ranks = [
        list(TrainingBatchSampler(50, 8 // (world * parts), parts=parts, rank=rank, world=world))
        for rank in range(world)
    ]
    for step, wanted in enumerate(whole):
        found = [key for rank in ranks for batch in rank[step * parts : (step + 1) * parts] for key in batch]
        assert len(found) == 8
        assert set(found) == wanted


def test_epoch_starts_at_any_step() -> None:
    batches = TrainingBatchSampler(50, 4, parts=2)
    whole = list(batches)
    batches.first_step = 4
    assert list(batches) == whole[8:]
    assert len(batches) == len(whole) - 8
    with pytest.raises(ValueError, match=r"at most the number of training images, 7, got 8"):
        TrainingBatchSampler(7, 4, parts=2)


def test_random_numbers_depend_on_seed_epoch_and_image_only() -> None:
    dataset = SeededDataset(Draws(), seed=1)
    keys = [[(0, 0), (0, 1)], [(1, 0), (0, 0)]]
    drawn = []
    for workers in (0, 2):
        random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
        loader = DataLoader(dataset, batch_sampler=keys, num_workers=workers)
        drawn.append([torch.stack(batch) for batch in loader])
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    first, second = drawn[0]
    assert torch.equal(first[:, 0], second[:, 1])
    different = torch.stack([first[:, 0], first[:, 1], second[:, 0]])
    assert len(different.unique()) == 9
    assert SeededDataset(Draws(), seed=2)[0, 0] != dataset[0, 0]
