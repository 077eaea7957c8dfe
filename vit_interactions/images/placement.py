"""Where the pixels of a model's input come from in the original image.

A model sees a image resized and cropped. Each step that does so shifts and scales both axes, so the whole
of it is four numbers, and a map over patches can be drawn on the image itself instead of on the crop.
Coordinates are those of pixel edges: 0 is the left or upper edge of the first pixel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from timm.data.transforms import CenterCropOrPad, MaybePILToTensor, MaybeToTensor, ResizeKeepRatio
from torchvision import transforms

Box = tuple[float, float, float, float]
PIXELWISE = (transforms.ToTensor, transforms.Normalize, MaybeToTensor, MaybePILToTensor)


@dataclass(frozen=True)
class Placement:
    """An image as a rectangle of the image it was made from.

    Attributes:
        height: rows of pixels of the image.
        width: columns of pixels of the image.
        left: the image's x at the image's left edge; negative where the image was padded.
        top: the image's y at the image's upper edge.
        scale_x: the image's pixels to one column of the image.
        scale_y: the image's pixels to one row of the image.
    """

    height: int
    width: int
    left: float = 0.0
    top: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0

    def box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Carry a rectangle from the image to the image: (left, top, right, bottom).

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
        """Follow a resize to (height, width) pixels."""
        scale_x, scale_y = self.scale_x * self.width / width, self.scale_y * self.height / height
        return replace(self, height=height, width=width, scale_x=scale_x, scale_y=scale_y)

    def center_cropped(self, height: int, width: int) -> "Placement":
        """Follow a crop of the centre, padded first where the image is smaller; torchvision's rounding."""
        left = self.left + self.scale_x * _crop_start(self.width, width)
        top = self.top + self.scale_y * _crop_start(self.height, height)
        return replace(self, height=height, width=width, left=left, top=top)


def place(transform: Any, size: tuple[int, int]) -> Placement:
    """Follow a image through the steps of a transform.

    Args:
        transform: torchvision's `Compose`, `Resize` and `CenterCrop`, timm's `ResizeKeepRatio` and
            `CenterCropOrPad`, and steps that leave every pixel in its place; what timm builds for evaluation.
        size: (height, width) of the image.

    Returns:
        Where the transformed image lies in the image.

    Raises:
        ValueError: a step that is none of these, or that places at random.

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
                f"`transform` must consist of {known}, so that the map can be placed on the image, "
                f"but has a step {type(step).__name__}."
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
    """Where a centre crop begins; negative by the padding before the image where that is smaller."""
    if wanted > length:
        return -((wanted - length) // 2)
    return round((length - wanted) / 2)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _resize(image: Placement, step: Any) -> Placement:
    """Follow torchvision's Resize: (height, width), or one int for the shorter side."""
    if not isinstance(step.size, int) and len(step.size) == 2:
        return image.resized(*step.size)
    short, _ = _pair(step.size)
    long = int(short * max(image.height, image.width) / min(image.height, image.width))
    if step.max_size is not None and long > step.max_size:
        short, long = int(step.max_size * short / long), step.max_size
    return image.resized(long, short) if image.width <= image.height else image.resized(short, long)


def _resize_keep_ratio(image: Placement, step: Any) -> Placement:
    """Follow timm's ResizeKeepRatio, which mixes the ratios of the two sides by `longest`."""
    if step.random_scale_prob or step.random_aspect_prob:
        raise ValueError("`transform` must place every image alike, but its ResizeKeepRatio draws at random.")
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
