"""Any explainer as a CAM of pytorch-grad-cam, for its metrics, its smoothing and code written for it."""

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
    """Convert an explainer to a CAM that works wherever pytorch_grad_cam expects one.

    `cam(input_tensor, targets=None, aug_smooth=False)` returns numpy float32 (batch, height, width), scaled to [0, 1]
    per image. 1 is the most relevant, even for methods where lower values are. Constant maps, and pixels that no patch
    covers, are 0.

    Unlike pytorch_grad_cam's CAMs, it does not change the model's mode or gradients, and does not swallow errors.

    Args:
        explainer: any explainer of this library or of its adapters.
        tta_transforms: transforms that `aug_smooth` averages over; None: pytorch_grad_cam's flips and brightnesses.
        options: further options of the explainer's `patch_map`, such as `patch=(5, 7)`.

    Example:
        >>> import timm, vit_interactions as vi
        >>> with as_gradcam(vi.AttentionRollout(timm.create_model("test_vit"))) as cam:
        ...     cam(torch.rand(2, 3, 160, 160)).shape
        (2, 160, 160)
    """
    return ExplainerCAM(explainer, tta_transforms, **options)


class ExplainerCAM(BaseCAM):  # type: ignore[misc]
    """An explainer with the interface of pytorch_grad_cam's CAMs; see `as_gradcam`."""

    def __init__(self, explainer: Explainer, tta_transforms: ttach.Compose | None = None, **options: Any) -> None:
        """Create the CAM; see `as_gradcam`."""
        if not isinstance(explainer, Explainer):
            raise TypeError(f"`explainer` must be an Explainer, got {type(explainer).__name__}.")
        # BaseCAM would set the model itself to eval mode.
        super().__init__(evaluated(explainer.model), [], uses_gradients=False, tta_transforms=tta_transforms)
        self.explainer, self.options = explainer, options

    def __call__(
        self, input_tensor: Tensor, targets: Targets = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> Map:
        """Compute the maps.

        Args:
            input_tensor: (batch, channels, height, width); moved to the model's device.
            targets: one function per image, of one row of the model's output, such as pytorch_grad_cam's
                `ClassifierOutputTarget`; None: the predicted class.
            aug_smooth: average over `tta_transforms`.
            eigen_smooth: must be False, because maps with one value per patch have no principal components.

        Returns:
            (batch, height, width) float32 in [0, 1].

        Raises:
            ValueError: `eigen_smooth`, not one target per image, or a map that is not finite.
            TypeError: targets that are not functions.
        """
        return super().__call__(input_tensor, targets, aug_smooth, eigen_smooth)  # type: ignore[no-any-return]

    def forward(self, input_tensor: Tensor, targets: Targets, eigen_smooth: bool = False) -> Map:
        """Compute the maps of one batch; see `__call__`."""
        if eigen_smooth:
            raise ValueError(
                "`eigen_smooth` must be False, got True. It needs the channels of a CAM, but an explainer's map has "
                "one value per patch. Use `aug_smooth`, or the adapter Gradcam(model, eigen_smooth=True)."
            )
        inputs = input_tensor.to(self.device)
        size = (inputs.shape[-2], inputs.shape[-1])
        values = self.explainer.patch_map(inputs, self._target(targets, len(inputs)), **self.options)
        extent = image_layout(self.explainer.model, inputs).extent
        pixels = to_pixels(values.detach().double(), extent, size).cpu().numpy()
        sign = 1.0 if self.explainer.more_is_relevant else -1.0
        result = np.zeros(pixels.shape, dtype=np.float32)
        for image, scaled in zip(pixels, result, strict=True):
            scaled[: extent[0], : extent[1]] = _unit(sign * image[: extent[0], : extent[1]])
        return result

    def _target(self, targets: Targets, batch: int) -> Any:
        """Convert one function of a row per image to the explainer's `target`."""
        if targets is None:
            return "pred" if self.explainer.class_specific else None
        if not isinstance(targets, Sequence) or not all(callable(target) for target in targets):
            raise TypeError(
                "`targets` must be None or a list of functions of one row of the output, such as "
                f"ClassifierOutputTarget, got {targets!r}."
            )
        if len(targets) != batch:
            raise ValueError(f"`targets` must be {batch} functions, one per image, got {len(targets)}.")

        def scores(output: Any) -> Tensor:
            rows = getattr(output, "logits", output)
            return torch.stack([target(row) for target, row in zip(targets, rows, strict=True)])

        return scores

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there are no hooks to release, and errors are not swallowed."""

    def __del__(self) -> None:
        """Do nothing: there are no hooks to release."""


def _unit(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale to [0, 1]; a map that is constant up to float32 rounding becomes 0."""
    if not np.isfinite(image).all():
        raise ValueError("the explainer's map has NaN or infinite values.")
    low, high = image.min(), image.max()
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros_like(image)
    return np.asarray((image - low) / (high - low))
