"""Call the metrics of other libraries on the cases of the tests."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import tiny
from vit_interactions.attention import token_layout
from vit_interactions.metrics import Case
from vit_interactions.metrics.rerun import rerun_method


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


def gray_case() -> Case:
    """Return a case with one channel, so that Quantus' features are pixels."""
    model = tiny("vit_tiny_patch16_224", img_size=64, in_chans=1).eval()
    inputs = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    return Case(model, inputs, 2, token_layout(model, (64, 64)), mean=(0.0,), std=(1.0,))


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


def gradient_maps(model: nn.Module, images: Tensor, target: int) -> Tensor:
    """Compute input times gradient, summed over the pixels of each patch."""
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


def softmax_targets(case: Case) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    return [ClassifierOutputSoftmaxTarget(case.target)]


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
