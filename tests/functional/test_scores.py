"""Outputs of a head become (batch, classes), and scores with its link function."""

import math
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vit_interactions.explain.targets import select_target
from vit_interactions.functional.scores import (
    OUTPUTS,
    are_distributions,
    check_output,
    class_outputs,
    class_scores,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]])


def test_scores_by_hand() -> None:
    softmax = [math.exp(each) / (math.exp(2) + math.exp(-1) + 1) for each in (2, -1, 0)]
    sigmoid = [1 / (1 + math.exp(-each)) for each in (2, -1, 0)]
    expected = {"softmax": [softmax, [1 / 3] * 3], "sigmoid": [sigmoid, [0.5] * 3], "value": LOGITS.tolist()}
    for output, scores in expected.items():
        assert class_scores(LOGITS, output).tolist() == [pytest.approx(row) for row in scores]  # type: ignore[arg-type]
    probabilities = torch.tensor([[0.25, 0.75]], dtype=torch.bfloat16)
    assert class_scores(probabilities, "probabilities").tolist() == [[0.25, 0.75]]
    assert {class_scores(LOGITS.half(), output).dtype for output in OUTPUTS[:2]} == {torch.float64}


def test_outputs_that_do_not_fit_raise() -> None:
    with pytest.raises(ValueError, match="The softmax of one number is always 1"):
        class_scores(LOGITS[:, :1], "softmax")
    with pytest.raises(ValueError, match="got 'probabilities' for values from -1 to 2"):
        class_scores(LOGITS, "probabilities")
    with pytest.raises(ValueError, match="`output` must be one of 'softmax', 'sigmoid', 'probabilities', 'value'"):
        check_output("output", "logits")
    check_output("output", None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_softmax_is_recognized_in_every_precision(dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(20, 1000, generator=torch.Generator().manual_seed(0))
    assert are_distributions(logits.to(dtype).softmax(-1))
    assert not are_distributions(logits.to(dtype))
    assert not are_distributions(logits.to(dtype).sigmoid())
    assert not are_distributions(torch.ones(2, 1, dtype=dtype))  # a single 1 is not a distribution
    assert not are_distributions(torch.tensor([[1.5, -0.5]], dtype=dtype))


def test_outputs_become_batch_times_classes() -> None:
    assert class_outputs(LOGITS, 2) is LOGITS
    assert class_outputs(SimpleNamespace(logits=LOGITS)) is LOGITS
    assert torch.equal(class_outputs(LOGITS[:, 0], 2), LOGITS[:, :1])


Pair = namedtuple("Pair", ["scores", "aux"])
ODD: dict[str, tuple[Any, str, str]] = {
    "dict": ({"logits": LOGITS, "aux": 0}, "a dict with 'logits', 'aux'", "output['logits'][:, 1]"),
    "tuple": ((LOGITS, None), "a tuple of length 2", "output[0][:, 1]"),
    "named tuple": (Pair(LOGITS, None), "a Pair of length 2", "output[0][:, 1]"),
    "list": ([LOGITS], "a list of length 1", "output[0][:, 1]"),
    "tokens": (LOGITS.unsqueeze(1), "shape (2, 1, 3)", "output[:, 0, 1]"),
    "pixels": (LOGITS[..., None, None], "shape (2, 3, 1, 1)", "output[:, 0, 0, 1]"),
    "dropped dimension": (LOGITS[0], "shape (3,)", "output.reshape(2, -1)[:, 0]"),
    "nothing": (None, "a NoneType", "output.scores[:, 1]"),
}


@pytest.mark.parametrize("name", ODD)
def test_errors_describe_the_output_and_suggest_a_target(name: str) -> None:
    output, came, example = ODD[name]
    for target in (1, "pred", [0, 1]):
        with pytest.raises(ValueError, match="`target` must be a function of the output") as error:
            select_target(output, target, 2)
        assert f"got {came} for 2 images. " in str(error.value)
        assert f"target=lambda output: {example}." in str(error.value)


def test_one_number_for_the_batch_raises() -> None:
    for target in (1, "pred", [0, 1]):
        with pytest.raises(
            ValueError, match=r"must return scores of each image.* got one number for the whole batch"
        ):
            select_target(LOGITS.sum(), target, 2)


@pytest.mark.parametrize("name", ["dict", "tuple", "named tuple", "list", "tokens"])
def test_the_suggested_target_works(name: str) -> None:
    output, _, example = ODD[name]
    target = eval(f"lambda output: {example}")
    assert torch.equal(select_target(output, target, 2), LOGITS[:, 1])


def test_every_target_gives_one_score_per_image() -> None:
    assert torch.equal(select_target(LOGITS[:, 0], 0, 2), LOGITS[:, 0])  # one class
    assert torch.equal(select_target(LOGITS[:, 0], "pred", 2), LOGITS[:, 0])
    with pytest.raises(IndexError, match="1 classes"):
        select_target(LOGITS[:, 0], 1, 2)

    def first(output: Tensor) -> Tensor:
        return output[0]

    with pytest.raises(ValueError, match=r"`target` first must .* got torch.float32 \(3,\) for 2 images"):
        select_target(LOGITS, first, 2)
