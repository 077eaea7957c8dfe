"""Scores of images in which the pixels of some patches are replaced."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.metrics.baseline import baseline_image
from vit_interactions.metrics.class_score import cached_scores, class_score
from vit_interactions.metrics.metric import Case


def pixel_mask(shown: Tensor, layout: TokenLayout, image_size: tuple[int, int]) -> Tensor:
    """Expand a mask over patches to pixels.

    Args:
        shown: (images, rows, cols).
        layout: position of the patches.
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


def blend(case: Case, weights: Tensor, baseline: str) -> Tensor:
    """Blend the image (weight 1) and the baseline (weight 0).

    Args:
        case: case with the image.
        weights: (images, height, width), bool or in [0, 1].
        baseline: see `baseline.baseline_image`.

    Returns:
        (images, channels, height, width).
    """
    replacement = baseline_image(case.inputs, baseline, case.mean, case.std)
    weights = weights.to(case.inputs.device).unsqueeze(1)
    # Selecting instead of multiplying keeps the shown pixels exact.
    if weights.dtype == torch.bool:
        return torch.where(weights, case.inputs, replacement)
    return torch.lerp(replacement, case.inputs, weights.to(case.inputs))


def pixel_scores(case: Case, shown: Tensor, baseline: str) -> Tensor:
    """Compute the score of the target class for images in which only some patches are shown.

    Args:
        case: case with the image and the model.
        shown: (images, rows, cols) bool.
        baseline: replacement of the other patches, see `baseline.baseline_image`.

    Returns:
        (images,) float64.
    """
    size = (case.inputs.shape[-2], case.inputs.shape[-1])

    def score(shown: Tensor) -> Tensor:
        return class_score(case, blend(case, pixel_mask(shown, case.layout, size), baseline))

    return cached_scores(case, baseline, shown, score)


def values_and_drops(case: Case, patch_map: Tensor, groups: Tensor, baseline: str) -> tuple[Tensor, Tensor]:
    """Compute the value of each group of patches, and the drop of the score when it is replaced, both per patch.

    Args:
        case: case with the image and the model.
        patch_map: (rows, cols) float64, on the CPU.
        groups: (groups, rows, cols) bool, none empty.
        baseline: replacement of the group's patches, see `baseline.baseline_image`.

    Returns:
        Means of the values, and drops of the score divided by the number of patches: (groups,) float64 each.
    """
    sizes = groups.sum((1, 2))
    whole = torch.ones_like(groups[:1])
    full, *replaced = pixel_scores(case, torch.cat([whole, ~groups]), baseline)
    return (patch_map * groups).sum((1, 2)) / sizes, (full - torch.stack(replaced)) / sizes
