"""Scores of images in which patches of pixels are replaced."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.metrics.baseline import baseline_image
from vit_interactions.metrics.class_score import class_score, remembered
from vit_interactions.metrics.metric import Case


def pixel_mask(shown: Tensor, layout: TokenLayout, image_size: tuple[int, int]) -> Tensor:
    """Carry marks of patches to the pixels of these patches.

    Args:
        shown: (images, rows, cols).
        layout: where the patches are.
        image_size: (height, width) of the input; pixels that no patch covers are shown.

    Returns:
        (images, height, width).

    Example:
        >>> layout = TokenLayout(prefix=1, rows=1, cols=2, readout="token", extent=(1, 4))
        >>> pixel_mask(torch.tensor([[[True, False]]]), layout, (1, 5)).int()
        tensor([[[1, 1, 0, 0, 1]]], dtype=torch.int32)
    """
    height, width = (pixels // patches for pixels, patches in zip(layout.extent, layout.grid, strict=True))
    pixels = shown.repeat_interleave(height, -2).repeat_interleave(width, -1)
    beyond = (0, image_size[1] - pixels.shape[-1], 0, image_size[0] - pixels.shape[-2])
    return F.pad(pixels, beyond, value=1)


def mix(case: Case, weights: Tensor, baseline: str) -> Tensor:
    """Show the photograph where the weight is 1, the baseline where it is 0, and their mixture between.

    Args:
        case: whose photograph is shown.
        weights: (images, height, width) in [0, 1].
        baseline: as in `baseline.baseline_image`.

    Returns:
        (images, channels, height, width).
    """
    nothing = baseline_image(case.inputs, baseline, case.mean, case.std)
    shares = weights.to(case.inputs.device).unsqueeze(1)
    # Selecting, not multiplying, leaves what is shown exactly as it is.
    if shares.dtype == torch.bool:
        return torch.where(shares, case.inputs, nothing)
    return torch.lerp(nothing, case.inputs, shares.to(case.inputs))


def pixel_scores(case: Case, shown: Tensor, baseline: str) -> Tensor:
    """Compute the score of the target for images of which some patches are shown.

    Args:
        case: whose photograph and model these are.
        shown: (images, rows, cols) bool.
        baseline: what the others are replaced by; as in `baseline.baseline_image`.

    Returns:
        (images,) float64.
    """
    size = (case.inputs.shape[-2], case.inputs.shape[-1])

    def ask(shown: Tensor) -> Tensor:
        return class_score(case, mix(case, pixel_mask(shown, case.layout, size), baseline))

    return remembered(case, baseline, shown, ask)
