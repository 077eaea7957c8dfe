"""Any explainer as a CAM of pytorch-grad-cam, for its metrics, its smoothing and code that is written for it."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
import ttach
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor

from vit_interactions import Explainer
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.explain.base import to_pixels

Targets = Sequence[Callable[[Tensor], Tensor]] | None
Map = np.ndarray[Any, np.dtype[np.float32]]


def as_gradcam(
    explainer: Explainer, tta_transforms: ttach.Compose | None = None, **options: Any
) -> "ExplainerCAM":
    """Make an explainer work wherever pytorch_grad_cam takes one of its CAMs.

    `cam(input_tensor, targets=None, aug_smooth=False)` gives numpy float32 (batch, height, width) in [0, 1], each
    image from its smallest to its largest value, 1 the most relevant even where a method's smaller values are. A map
    of one value, and pixels that no patch covers, are 0.

    Unlike pytorch_grad_cam's own, it leaves the model's mode and gradients alone and lets every error through.

    Args:
        explainer: any explainer of this library or of its adapters.
        tta_transforms: what `aug_smooth` averages over; None: pytorch_grad_cam's flips and brightnesses.
        options: further options of the explainer's `patch_map`, such as `patch=(5, 7)`.

    Example:
        >>> import timm, vit_interactions as vi
        >>> with as_gradcam(vi.AttentionRollout(timm.create_model("test_vit"))) as cam:
        ...     cam(torch.rand(2, 3, 160, 160)).shape
        (2, 160, 160)
    """
    return ExplainerCAM(explainer, tta_transforms, **options)


class ExplainerCAM(BaseCAM):  # type: ignore[misc]
    """An explainer with the interface of pytorch_grad_cam's CAMs; made by `as_gradcam`."""

    def __init__(self, explainer: Explainer, tta_transforms: ttach.Compose | None = None, **options: Any) -> None:
        """Take the explainer; see `as_gradcam`."""
        if not isinstance(explainer, Explainer):
            raise TypeError(f"`explainer` must be an Explainer, but got {type(explainer).__name__}.")
        # BaseCAM would put the model itself into evaluation mode.
        super().__init__(evaluated(explainer.model), [], uses_gradients=False, tta_transforms=tta_transforms)
        self.explainer, self.options = explainer, options

    def __call__(
        self, input_tensor: Tensor, targets: Targets = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> Map:
        """Compute the maps.

        Args:
            input_tensor: (batch, channels, height, width); moved to the model's device.
            targets: one function of one row of the model's output for each image, as pytorch_grad_cam's
                `ClassifierOutputTarget`; None: the class of the highest score.
            aug_smooth: whether to average over the images of `tta_transforms`.
            eigen_smooth: refused; a map of one value a patch has no channels to take a component of.

        Returns:
            (batch, height, width) float32 in [0, 1].

        Raises:
            ValueError: `eigen_smooth`, not one target an image, or a map that is not finite.
            TypeError: targets that are no functions.
        """
        return super().__call__(input_tensor, targets, aug_smooth, eigen_smooth)  # type: ignore[no-any-return]

    def forward(self, input_tensor: Tensor, targets: Targets, eigen_smooth: bool = False) -> Map:
        """Compute the maps of one batch; see `__call__`."""
        if eigen_smooth:
            raise ValueError(
                "`eigen_smooth` takes the first principal component over the channels of a CAM; an explainer's map "
                "has one value a patch. Use `aug_smooth`, or Gradcam(model, eigen_smooth=True) of these adapters."
            )
        inputs = input_tensor.to(self.device)
        size = (inputs.shape[-2], inputs.shape[-1])
        values = self.explainer.patch_map(inputs, self._target(targets, len(inputs)), **self.options)
        extent = image_layout(self.explainer.model, size).extent
        pixels = to_pixels(values.detach().double(), extent, size).cpu().numpy()
        sign = 1.0 if self.explainer.more_is_relevant else -1.0
        result = np.zeros(pixels.shape, dtype=np.float32)
        for image, scaled in zip(pixels, result, strict=True):
            scaled[: extent[0], : extent[1]] = _unit(sign * image[: extent[0], : extent[1]])
        return result

    def _target(self, targets: Targets, batch: int) -> Any:
        """Turn one function of a row for each image into the explainer's `target`."""
        if targets is None:
            return "pred" if self.explainer.class_specific else None
        if not isinstance(targets, Sequence) or not all(callable(target) for target in targets):
            raise TypeError(
                "`targets` must be None or a list of functions of one row of the output, as ClassifierOutputTarget, "
                f"but got {targets!r}."
            )
        if len(targets) != batch:
            raise ValueError(f"`targets` must be {batch} functions, one an image, but got {len(targets)}.")

        def scores(output: Any) -> Tensor:
            rows = getattr(output, "logits", output)
            return torch.stack([target(row) for target, row in zip(targets, rows, strict=True)])

        return scores

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release nothing, as nothing is held, and swallow nothing."""

    def __del__(self) -> None:
        """Release nothing, as nothing is held."""


def _unit(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale to [0, 1]; what differs by the rounding of float32 only is constant, and becomes 0."""
    if not np.isfinite(image).all():
        raise ValueError("the explainer's map holds NaN or infinite values.")
    low, high = image.min(), image.max()
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros_like(image)
    return np.asarray((image - low) / (high - low))
