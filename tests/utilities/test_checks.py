"""Argument checks: the device that "auto" selects."""

import pytest
import torch

from vit_interactions.utilities.checks import check_device


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_selects_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert check_device("--device", "auto") == chosen


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:cpu"])
def test_an_unavailable_device_raises(name: str) -> None:
    with pytest.raises(ValueError, match="`--device` must be auto or a device of this machine, got"):
        check_device("--device", name)
