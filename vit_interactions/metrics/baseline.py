"""What removed pixels are replaced by."""

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vit_interactions.utilities.checks import check_choice

BASELINES = ("blur", "mean", "zero")


def check_baseline(baseline: str) -> None:
    """Raise ValueError unless the baseline is one of `BASELINES`."""
    check_choice("baseline", baseline, BASELINES)


def baseline_image(inputs: Tensor, baseline: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Make the image that shows nothing.

    Args:
        inputs: (batch, channels, height, width), normalised.
        baseline: "blur", the image blurred by a Gaussian of σ = 5 pixels of an image of 224, cut off at 11 of them, and
            in proportion at other sizes (RISE, Sec. 4.2; the border is mirrored, not black); "mean", the colour of the
            normalisation's mean, which is 0 in normalised numbers (RISE's and AGCAM's "zero"); "zero", black.
        mean: of the normalisation, one number a channel.
        std: of the normalisation, one number a channel.

    Returns:
        Of the inputs' shape and type, normalised.

    Example:
        >>> baseline_image(torch.ones(1, 1, 2, 2), "zero", (0.5,), (0.25,))
        tensor([[[[-2., -2.],
                  [-2., -2.]]]])
    """
    check_baseline(baseline)
    if baseline == "mean":
        return torch.zeros_like(inputs)
    if baseline == "zero":
        black = -torch.tensor(mean, dtype=torch.float64, device="cpu") / torch.tensor(
            std, dtype=torch.float64, device="cpu"
        )
        return black.to(inputs).reshape(-1, 1, 1).expand_as(inputs)
    kernel, sigma = blur_kernel((inputs.shape[-2], inputs.shape[-1]))
    blurred: Tensor = gaussian_blur(inputs, [kernel, kernel], [sigma, sigma])
    return blurred


def blur_kernel(image_size: tuple[int, int]) -> tuple[int, float]:
    """Scale RISE's kernel of 11 pixels and σ = 5 from 224 pixels to the shorter side of another image.

    Example:
        >>> blur_kernel((224, 300)), blur_kernel((448, 448))
        ((11, 5.0), (21, 10.0))
    """
    sigma = 5 * min(image_size) / 224
    return 2 * max(1, round(sigma)) + 1, sigma
