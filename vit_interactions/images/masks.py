"""Object masks: find them in a folder of PNG files, read them, and find the patches on the objects."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.images.matching import match
from vit_interactions.images.prepared import PreparedImage
from vit_interactions.images.reading import decode, opaque_pixels, upright

VOID = 255  # the index for "no class" in palette images, as in VOC
HALF = 0.5 - 1e-9  # so that a patch exactly half covered counts, whatever the rounding


class UnusableMaskError(ValueError):
    """A mask file that is damaged or belongs to another image, unlike a missing mask or one without an object."""


def masks_by_image(folder: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """Find the mask of each image: the PNG file below a folder whose path ends in the same names.

    Args:
        folder: folder of the masks.
        images: image paths, at least one.

    Returns:
        The mask file per image; if there is none, the path where it is expected.

    Raises:
        ValueError: not a folder, a mask matches several images or is one of them, several masks match one image, or
            no mask matches any.
    """
    if not folder.is_dir():
        raise ValueError(f"`masks` must be a folder of PNG files, got {folder}, which is not a folder.")
    files = _mask_files(folder)
    masks: dict[PurePath, Path] = {path.relative_to(folder).with_suffix(""): path for path in files}
    found = match("masks", masks, images, lambda path: path.with_suffix(""))
    if not found:
        wanted = f"{images[0].stem}.png"
        other = f"e.g. {files[0].name!r}" if files else "no PNG file"
        raise ValueError(
            f"`masks` must contain files named like the images, e.g. {wanted!r}, got {other} in {folder}."
        )
    own: dict[Path, Path] = {}
    for name, image in found.items():
        if masks[name] == image:
            raise ValueError(f"`masks` must not be the folder of the images, got {image} as both.")
        if image in own:
            raise ValueError(
                f"`masks` must have one mask per image, got {own[image]} and {masks[name]} for {image}."
            )
        own[image] = masks[name]
    return {path: own.get(path, folder / f"{path.stem}.png") for path in images}


def unused_masks(folder: Path, used: Iterable[Path]) -> list[str]:
    """Report how many masks in a folder match no image: one line, or none if all are used.

    Args:
        folder: folder of the masks.
        used: the mask files of the images.
    """
    files = _mask_files(folder)
    own = set(used)
    unused = [path for path in files if path not in own]
    if not unused:
        return []
    example = str(unused[0].relative_to(folder))
    return [f"{len(unused)} of {len(files)} `masks` match no image and are not used, e.g. {example!r}"]


def _mask_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    except RecursionError as error:  # Python < 3.12 recurses per folder level
        raise ValueError(
            f"`masks` must be at most a few hundred folders deep, got a deeper one at {folder}."
        ) from error


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the object pixels of an image from its mask.

    Args:
        path: a PNG file.
        size: (width, height) of the upright image, which the mask must have too.

    Returns:
        (height, width) bool.

    Raises:
        UnusableMaskError: not a PNG file, or of another size.
        ValueError: the file does not exist, or no pixel is object.
    """
    try:
        image = decode(path, upright, ["PNG"])
    except FileNotFoundError:
        raise ValueError(f"the mask {path} does not exist.") from None
    except ValueError as error:
        raise UnusableMaskError(f"the mask cannot be read: {error}") from error
    if image.size != size:
        mine, wanted = (f"{width} x {height}" for width, height in (image.size, size))
        raise UnusableMaskError(
            f"the mask {path} must have the image's size {wanted}, got {mine} (width x height)."
        )
    found = object_pixels(image)
    if not found.any():
        raise ValueError(
            f"the mask {path} contains no object: all pixels are 0 (in a palette image: 0 or {VOID})."
        )
    return found


def object_pixels(image: Image.Image) -> NDArray[np.bool_]:
    """Return the object pixels of a mask: all that are neither 0 nor transparent.

    In palette images, whose values are class indices, 255 means no class.

    Args:
        image: from `images.reading.upright`, in a PNG mode.

    Returns:
        (height, width) bool.

    Example:
        >>> object_pixels(Image.fromarray(np.array([[0, 1, 255]], np.uint8)))
        array([[False,  True,  True]])
    """
    values: NDArray[Any] = np.asarray(image)
    if image.mode == "P":
        values = values * (values != VOID)
    elif image.mode in ("LA", "RGBA"):
        values = values[..., :-1]
    found: NDArray[np.bool_] = values.reshape(image.height, image.width, -1).any(-1) & opaque_pixels(image)
    return found


def covered(prepared: PreparedImage, layout: TokenLayout, mask: NDArray[np.bool_]) -> Tensor:
    """Compute the fraction of each patch that is object; outside the image nothing is.

    Args:
        prepared: the image, from `prepare`.
        layout: token layout of the model.
        mask: (height, width) bool, object pixels of the original image.

    Returns:
        (rows, cols) float64 in [0, 1]; pixels on patch edges count by area.
    """
    place, (height, width) = prepared.placement, layout.extent
    across = place.left + place.scale_x * _range(layout.cols + 1) * width / layout.cols
    down = place.top + place.scale_y * _range(layout.rows + 1) * height / layout.rows
    pixels = torch.from_numpy(mask).double()
    return _overlaps(down, mask.shape[0]) @ pixels @ _overlaps(across, mask.shape[1]).T


def inside_mask(prepared: PreparedImage, layout: TokenLayout, mask: NDArray[np.bool_]) -> Tensor:
    """Return the patches that are at least half object: (rows, cols) bool; same arguments as `covered`."""
    return covered(prepared, layout, mask) >= HALF


def _overlaps(edges: Tensor, length: int) -> Tensor:
    """Compute which fraction of each interval between edges each pixel covers: (intervals, length)."""
    start, end = edges[:-1, None], edges[1:, None]
    pixels = _range(length)
    return (torch.minimum(end, pixels + 1) - torch.maximum(start, pixels)).clamp(min=0) / (end - start)


def _range(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64, device="cpu")
