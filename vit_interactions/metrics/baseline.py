"""Images that replace removed pixels."""

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vit_interactions.utilities.checks import check_choice

BASELINES = ("blur", "mean", "zero")


def check_baseline(baseline: str) -> None:
    """Raise ValueError unless the baseline is one of `BASELINES`."""
    check_choice("baseline", baseline, BASELINES)


def baseline_image(inputs: Tensor, baseline: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Create the baseline image, which replaces removed pixels.

    Args:
        inputs: (batch, channels, height, width), normalized.
        baseline: "blur" is the image after a Gaussian blur with σ = 5 pixels and a kernel of 11 pixels at 224 pixels,
            scaled for other sizes (RISE, Sec. 4.2; borders are mirrored, not black). "mean" is the mean color of the
            normalization, 0 after normalization (called "zero" by RISE and AGCAM). "zero" is black.
        mean: mean of the normalization, one number per channel.
        std: standard deviation of the normalization, one number per channel.

    Returns:
        Normalized image of the inputs' shape and type.

    Example:
        >>> baseline_image(torch.ones(1, 1, 2, 2), "zero", (0.5,), (0.25,))
        tensor([[[[-2., -2.],
                  [-2., -2.]]]])
    """
    check_baseline(baseline)
    if baseline == "mean":
        return torch.zeros_like(inputs)
    if baseline == "zero":
        black = [-center / scale for center, scale in zip(mean, std, strict=True)]
        return (
            torch.tensor(black, dtype=torch.float64, device="cpu").to(inputs).reshape(-1, 1, 1).expand_as(inputs)
        )
    kernel, sigma = blur_kernel((inputs.shape[-2], inputs.shape[-1]))
    blurred: Tensor = gaussian_blur(inputs, [kernel, kernel], [sigma, sigma])
    return blurred


def blur_kernel(image_size: tuple[int, int]) -> tuple[int, float]:
    """Scale RISE's kernel (11 pixels, σ = 5, for 224 pixels) to the shorter side of another image size.

    Example:
        >>> blur_kernel((224, 300)), blur_kernel((448, 448))
        ((11, 5.0), (21, 10.0))
    """
    sigma = 5 * min(image_size) / 224
    return 2 * max(1, round(sigma)) + 1, sigma
