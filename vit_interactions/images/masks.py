"""Masks of the objects of images: from a folder of PNG images to the patches on the objects."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.matching import match
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.images.reading import decode, opaque_pixels, upright

Array = np.ndarray[Any, Any]
VOID = 255  # no class, in images whose numbers are classes with colours of a palette, as VOC's
HALF = 0.5 - 1e-9  # a patch of which half is object is on it, whatever the rounding


class UnusableMaskError(ValueError):
    """A mask that is there, but damaged or of another image: unlike one without an object, a fault to repair."""


def masks_by_image(folder: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """Find the mask of each image: the PNG image in a folder, or below it, whose path ends likewise.

    Args:
        folder: of the masks.
        images: their paths, at least one.

    Returns:
        The file of every image's mask; where there is none, the place where it should be.

    Raises:
        ValueError: no folder; a mask that fits several images, or is one; several masks that fit one image;
            none that fits any.
    """
    if not folder.is_dir():
        raise ValueError(f"`masks` must be a folder of PNG images, but there is none at {folder}.")
    files = _mask_files(folder)
    masks: dict[PurePath, Path] = {path.relative_to(folder).with_suffix(""): path for path in files}
    found = match("masks", masks, images, lambda path: path.with_suffix(""))
    if not found:
        wanted = f"{images[0].stem}.png"
        other = f"only others, e.g. {files[0].name!r}" if files else "none"
        raise ValueError(
            f"`masks` must hold images named as the images, e.g. {wanted!r}, but {folder} has {other}."
        )
    own: dict[Path, Path] = {}
    for name, image in found.items():
        if masks[name] == image:
            raise ValueError(f"`masks` must be another folder than the images', but {image} is in both.")
        if image in own:
            raise ValueError(
                f"`masks` must have one mask per image, but {own[image]} and {masks[name]} fit {image}."
            )
        own[image] = masks[name]
    return {path: own.get(path, folder / f"{path.stem}.png") for path in images}


def unused_masks(folder: Path, used: Iterable[Path]) -> list[str]:
    """Say in a line how many masks in a folder are of no image; no line if all are used.

    Args:
        folder: of the masks.
        used: files of the masks of images.
    """
    files = _mask_files(folder)
    own = set(used)
    unused = [path for path in files if path not in own]
    if not unused:
        return []
    example = str(unused[0].relative_to(folder))
    return [f"{len(unused)} of {len(files)} `masks` fit no image and are not used, e.g. {example!r}"]


def _mask_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    except RecursionError as error:  # of Python before 3.12
        raise ValueError(
            f"`masks` must be a folder of some hundred levels at most, got a deeper one at {folder}."
        ) from error


def read_mask(path: Path, size: tuple[int, int]) -> Array:
    """Read which pixels of an image are object.

    Args:
        path: of a PNG image.
        size: (width, height) of the image the way up that it is shown, which the mask must have too.

    Returns:
        (height, width) bool.

    Raises:
        UnusableMaskError: no PNG, or another size; the text says which.
        ValueError: no file, or nothing that is object.
    """
    try:
        image = decode(path, upright, ["PNG"])
    except FileNotFoundError:
        raise ValueError(f"there is no mask at {path}.") from None
    except ValueError as error:
        raise UnusableMaskError(f"the mask cannot be read: {error}") from error
    if image.size != size:
        mine, wanted = (f"{width} x {height}" for width, height in (image.size, size))
        raise UnusableMaskError(
            f"the mask {path} has {mine} pixels where its image has {wanted} (width x height)."
        )
    found = object_pixels(image)
    if not found.any():
        raise ValueError(f"the mask {path} has no pixel other than 0 (with a palette: other than 0 and {VOID}).")
    return found


def object_pixels(image: Image.Image) -> Array:
    """Tell which pixels are object: those that are not 0, whatever their number.

    Of images with a palette, whose numbers are classes, 255 is none; transparent pixels are none.

    Args:
        image: as `images.reading.upright` returns it, in a mode that PNG has.

    Returns:
        (height, width) bool.

    Example:
        >>> object_pixels(Image.fromarray(np.array([[0, 1, 255]], np.uint8)))
        array([[False,  True,  True]])
    """
    values: Array = np.asarray(image)
    if image.mode == "P":
        values = values * (values != VOID)
    elif image.mode in ("LA", "RGBA"):
        values = values[..., :-1]
    found: Array = values.reshape(image.height, image.width, -1).any(-1) & opaque_pixels(image)
    return found


def covered(prepared: PreparedImage, layout: TokenLayout, mask: Array) -> Tensor:
    """Compute the share of each patch's area that is object; beyond the image nothing is.

    Args:
        prepared: from `figures.prepare`.
        layout: where the patches are in the model's input.
        mask: (height, width) bool, of the image.

    Returns:
        (rows, cols) float64 in [0, 1], exact where pixels lie in several patches.
    """
    place, (height, width) = prepared.placement, layout.extent
    across = (
        place.left
        + place.scale_x * torch.arange(layout.cols + 1, dtype=torch.float64, device="cpu") * width / layout.cols
    )
    down = (
        place.top
        + place.scale_y * torch.arange(layout.rows + 1, dtype=torch.float64, device="cpu") * height / layout.rows
    )
    pixels = torch.from_numpy(mask).double()
    return _shares(down, mask.shape[0]) @ pixels @ _shares(across, mask.shape[1]).T


def inside_mask(prepared: PreparedImage, layout: TokenLayout, mask: Array) -> Tensor:
    """Mark the patches at least half of which is object: (rows, cols) bool; arguments as of `covered`."""
    return covered(prepared, layout, mask) >= HALF


def _shares(edges: Tensor, length: int) -> Tensor:
    """Which share of each interval between edges each pixel takes: (intervals, length)."""
    start, end = edges[:-1, None], edges[1:, None]
    pixels = torch.arange(length, dtype=torch.float64, device="cpu")
    return (torch.minimum(end, pixels + 1) - torch.maximum(start, pixels)).clamp(min=0) / (end - start)
