"""Map pixels of a model's input back to the original image.

A model sees an image resized and cropped. Each step scales and shifts both axes, so the whole transform is four
numbers, and a patch map can be drawn on the original image instead of on the crop. Coordinates are pixel edges: 0 is
the left or upper edge of the first pixel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from timm.data.transforms import CenterCropOrPad, MaybePILToTensor, MaybeToTensor, ResizeKeepRatio
from torchvision import transforms

Bounds = tuple[float, float, float, float]  # left, top, right, bottom
# Transforms that do not move pixels.
PIXELWISE = (transforms.ToTensor, transforms.Normalize, MaybeToTensor, MaybePILToTensor)


def around_both(size: tuple[int, int], patches: Bounds) -> Bounds:
    """Return the area of an image and of all its patches, which exceed the image if the model's input was padded.

    Args:
        size: (width, height) of the image in pixels.
        patches: area of the patches, in pixels of the image.

    Example:
        >>> around_both((200, 100), (50.0, -20.0, 150.0, 120.0))
        (0.0, -20.0, 200.0, 120.0)
    """
    width, height = size
    left, top, right, bottom = patches
    return min(left, 0.0), min(top, 0.0), max(right, float(width)), max(bottom, float(height))


@dataclass(frozen=True)
class Placement:
    """The position of a transformed image on its original.

    Attributes:
        height: height of the transformed image in pixels.
        width: width of the transformed image in pixels.
        left: x of its left edge in pixels of the original; negative if the image was padded.
        top: y of its upper edge in pixels of the original.
        scale_x: pixels of the original per column of the transformed image.
        scale_y: pixels of the original per row of the transformed image.
    """

    height: int
    width: int
    left: float = 0.0
    top: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0

    def box(self, left: float, top: float, right: float, bottom: float) -> Bounds:
        """Map a rectangle from the transformed image to the original: (left, top, right, bottom).

        Example:
            >>> Placement(224, 224, left=10.0, scale_x=2.0).box(0, 0, 16, 16)
            (10.0, 0.0, 42.0, 16.0)
        """
        return (
            self.left + self.scale_x * left,
            self.top + self.scale_y * top,
            self.left + self.scale_x * right,
            self.top + self.scale_y * bottom,
        )

    def resized(self, height: int, width: int) -> "Placement":
        """Return the placement after a resize to (height, width) pixels."""
        scale_x, scale_y = self.scale_x * self.width / width, self.scale_y * self.height / height
        return replace(self, height=height, width=width, scale_x=scale_x, scale_y=scale_y)

    def center_cropped(self, height: int, width: int) -> "Placement":
        """Return the placement after a center crop; smaller images are padded first, rounded as in torchvision."""
        left = self.left + self.scale_x * _crop_start(self.width, width)
        top = self.top + self.scale_y * _crop_start(self.height, height)
        return replace(self, height=height, width=width, left=left, top=top)


def place(transform: Any, size: tuple[int, int]) -> Placement:
    """Compute where the output of a transform lies on the original image.

    Args:
        transform: what timm builds for evaluation: torchvision's `Compose`, `Resize` and `CenterCrop`, timm's
            `ResizeKeepRatio` and `CenterCropOrPad`, and the steps in `PIXELWISE`, which do not move pixels.
        size: (height, width) of the original in pixels.

    Raises:
        ValueError: a step is none of these, or moves pixels at random.

    Example:
        >>> place(transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224)]), (448, 648))
        Placement(height=224, width=224, left=100.0, top=0.0, scale_x=2.0, scale_y=2.0)
    """
    placement = Placement(*size)
    for step in flatten(transform):
        if type(step) in PIXELWISE:
            continue
        follow = STEPS.get(type(step))
        if follow is None:
            known = ", ".join(kind.__name__ for kind in (*STEPS, *PIXELWISE))
            raise ValueError(
                f"`transform` must consist of {known}, so that maps can be placed on the original image, "
                f"got a step {type(step).__name__}."
            )
        placement = follow(placement, step)
    return placement


def flatten(transform: Any) -> Iterator[Any]:
    """Yield the steps of a transform, without nesting."""
    if isinstance(transform, transforms.Compose):
        for step in transform.transforms:
            yield from flatten(step)
    else:
        yield transform


def _crop_start(length: int, wanted: int) -> int:
    """Return where a center crop starts; if the image is smaller, minus the padding before it."""
    if wanted > length:
        return -((wanted - length) // 2)
    return round((length - wanted) / 2)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _resize(image: Placement, step: Any) -> Placement:
    """Apply torchvision's Resize: to (height, width), or the shorter side to one int."""
    if not isinstance(step.size, int) and len(step.size) == 2:
        return image.resized(*step.size)
    short, _ = _pair(step.size)
    long = int(short * max(image.height, image.width) / min(image.height, image.width))
    if step.max_size is not None and long > step.max_size:
        short, long = int(step.max_size * short / long), step.max_size
    return image.resized(long, short) if image.width <= image.height else image.resized(short, long)


def _resize_keep_ratio(image: Placement, step: Any) -> Placement:
    """Apply timm's ResizeKeepRatio, which mixes the ratios of the two sides by `longest`."""
    if step.random_scale_prob or step.random_aspect_prob:
        raise ValueError(
            "`transform` must be deterministic, got a ResizeKeepRatio with random scale or aspect ratio."
        )
    ratios = image.height / step.size[0], image.width / step.size[1]
    ratio = max(ratios) * step.longest + min(ratios) * (1.0 - step.longest)
    return image.resized(round(image.height / ratio), round(image.width / ratio))


def _center_crop(image: Placement, step: Any) -> Placement:
    return image.center_cropped(*_pair(step.size))


STEPS: dict[type, Callable[[Placement, Any], Placement]] = {
    transforms.Resize: _resize,
    transforms.CenterCrop: _center_crop,
    ResizeKeepRatio: _resize_keep_ratio,
    CenterCropOrPad: _center_crop,
}
