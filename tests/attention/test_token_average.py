"""The average of shown tokens, and the calls that are recognized as averages of tokens."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.token_average import averaged_axis, forget_masked, mean_of_shown


class Calls(TorchFunctionMode):
    """A mode that lists the tensors that calls average over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = averaged_axis(func, args, kwargs or {})
        self.found += [] if found is None else [found]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("call", "recognized"),
    [
        (lambda x: x.mean(1), True),
        (lambda x: x.mean(dim=1), True),
        (lambda x: x.mean(dim=(1,), keepdim=True), True),
        (lambda x: x.mean(-2, True), True),
        (lambda x: x.mean(axis=1), True),
        (lambda x: torch.mean(x, 1), True),
        (lambda x: torch.mean(input=x, dim=[1]), True),
        (lambda x: x.mean(-1), False),
        (lambda x: x.mean(), False),
        (lambda x: x.mean((1, 2)), False),
        (lambda x: x[0].mean(1), False),
        (lambda x: x.sum(1), False),
        (lambda x: x.amax(1), False),
    ],
)
def test_only_averages_over_the_tokens_are_recognized(call: Any, recognized: bool) -> None:
    values = torch.rand(2, 3, 4)
    with Calls() as calls:
        call(values)
    assert len(calls.found) == recognized
    assert all(found is values for found in calls.found)


def test_means_by_hand() -> None:
    values = torch.tensor(
        [[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]], [[7.0, 0.0], [math.nan, math.nan], [1.0, 4.0]]]
    )
    shown = torch.tensor([[True, True, True], [True, False, True]])
    torch.testing.assert_close(mean_of_shown(values, shown), torch.tensor([[[3.0, 30.0]], [[4.0, 2.0]]]))
    # The first token is a prefix token, which is always shown.
    only = mean_of_shown(values, torch.tensor([[False, True], [False, False]]))
    torch.testing.assert_close(only, torch.tensor([[[3.5, 35.0]], [[7.0, 0.0]]]))
    assert mean_of_shown(values, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[[0.0, 0.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize("folded", [True, False])
def test_masked_tokens_are_forgotten_in_every_head(folded: bool) -> None:
    output = torch.rand(2, 3, 4, 5)
    shown = torch.tensor([[True, False, True, True], [False, True, True, False]])
    given = output.flatten(0, 1) if folded else output
    found = forget_masked(given, shown).view(2, 3, 4, 5)
    for image in range(2):
        assert torch.equal(found[image].isnan().all(-1), (~shown[image]).expand(3, 4))
        assert torch.equal(found[image][:, shown[image]], output[image][:, shown[image]])
