"""Tests of targets in captum's forms."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.families import CLASSES

TARGETS = {
    "none": None,
    "int": 3,
    "negative int": -1,
    "numpy int": np.int64(1),
    "tensor of no axis": torch.tensor(3),
    "tensor of one": torch.tensor([3]),
    "one-tuple": (3,),
    "tensor": torch.tensor([1, 2]),
    "int32 tensor": torch.tensor([1, 2], dtype=torch.int32),
    "list": [1, 2],
    "list of one-tuples": [(1,), (2,)],
}


@pytest.mark.parametrize(
    "target", [t for t in TARGETS.values() if t is not None], ids=[n for n in TARGETS if n != "none"]
)
def test_targets_pick_what_captum_picks(target: Any) -> None:
    from captum._utils.common import _select_targets

    from vit_interactions.explain.targets import select_target

    output = torch.randn(2, CLASSES)
    expected = _select_targets(output, int(target) if isinstance(target, np.integer) else target)
    assert torch.equal(select_target(output, target), expected)
