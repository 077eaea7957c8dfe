"""Random transforms that also return the crop and flip they made."""

import copy
from typing import Any, NamedTuple

import torch
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, ToNumpy
from torchvision import transforms
from torchvision.transforms.functional import get_image_size, hflip

from vit_interactions.functional.window_transform import WHOLE, Box
from vit_interactions.images.placement import PIXELWISE, flatten

CROPS = (RandomResizedCropAndInterpolation, transforms.RandomResizedCrop)
FLIP = transforms.RandomHorizontalFlip
# Steps that keep every pixel in place.
IN_PLACE = (
    *PIXELWISE,
    transforms.ColorJitter,
    transforms.GaussianBlur,
    transforms.Grayscale,
    transforms.RandomErasing,
    transforms.RandomGrayscale,
    transforms.ConvertImageDtype,
    transforms.PILToTensor,
    ToNumpy,
    RandomErasing,
)


class Tracked(NamedTuple):
    """A transformed image.

    Attributes:
        image: result of the transform.
        box: (top, left, height, width) of the visible part, as fractions of the image's height and width.
        flip: True if the visible part is mirrored.
    """

    image: Any
    box: Box
    flip: bool


class TrackedTransform:
    """A timm or torchvision transform that also returns its crop and flip.

    It draws the same random numbers as the transform itself, so that the same seed gives the same image.

    Example:
        >>> from PIL import Image
        >>> transform = TrackedTransform(transforms.RandomHorizontalFlip(p=1.0))
        >>> transform(Image.new("RGB", (4, 4)))[1:]
        ((0.0, 0.0, 1.0, 1.0), True)
    """

    def __init__(self, transform: Any) -> None:
        """Wrap what timm's `create_transform` returns for training, or steps of the same kinds.

        Raises:
            ValueError: a step that moves pixels in a way that cannot be tracked.
        """
        self.transform = transform
        self._steps = list(flatten(transform))
        for step in self._steps:
            if not isinstance(step, (*CROPS, FLIP)):
                _check_in_place(step)

    def __call__(self, image: Any) -> Tracked:
        """Transform a PIL image or a tensor (channels, height, width)."""
        box, flip = WHOLE, False
        for step in self._steps:
            if isinstance(step, CROPS):
                image, box = _crop(image, box, flip, step)
            elif isinstance(step, FLIP):
                if torch.rand(1, device="cpu") < step.p:
                    image, flip = hflip(image), not flip
            else:
                image = step(image)
        return Tracked(image, box, flip)


def _check_in_place(step: Any) -> None:
    if isinstance(step, transforms.RandomApply):
        for inner in step.transforms:
            _check_in_place(inner)
    elif not isinstance(step, IN_PLACE):
        known = ", ".join(kind.__name__ for kind in (*CROPS, FLIP, *IN_PLACE))
        raise ValueError(
            f"`transform` must consist of {known}, which stored windows can follow, got a step {type(step).__name__}. "
            "Remove it, or use a teacher online, which sees the transformed image."
        )


def _crop(image: Any, box: Box, flip: bool, step: Any) -> tuple[Any, Box]:
    """Crop an image by a step, and compute the new visible part."""
    width, height = get_image_size(image)
    drawn: list[tuple[int, int, int, int]] = []

    def draw(*args: Any) -> tuple[int, int, int, int]:
        drawn.append(step.get_params(*args))
        return drawn[-1]

    recording = copy.copy(step)
    recording.get_params = draw  # both libraries call it on the step itself
    cropped = recording(image)
    i, j, h, w = drawn[0]
    if flip:
        j = width - j - w
    top, left, tall, wide = box
    return cropped, (top + tall * i / height, left + wide * j / width, tall * h / height, wide * w / width)
