"""A photograph as a person sees it, as the model sees it, and how the two lie on each other."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import timm
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from vit_interactions.attention import TokenLayout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.figures.placement import Box, Placement, place


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph and the model's view of it.

    Attributes:
        image: the original, RGB.
        input: (3, height, width), what the model gets.
        placement: where the input's pixels lie in the original.
    """

    image: Image.Image
    input: Tensor
    placement: Placement

    def box_of_extent(self, extent: tuple[int, int]) -> Box:
        """Find the area that a grid of patches covers.

        Args:
            extent: (height, width) in pixels of the input; `TokenLayout.extent`.

        Returns:
            (left, top, right, bottom) in pixels of the original, which a padded input exceeds.
        """
        height, width = extent
        return self.placement.box(0, 0, width, height)

    def patch_box(self, row: int, col: int, layout: TokenLayout) -> Box:
        """Find the area of one patch: (left, top, right, bottom) in pixels of the original."""
        height, width = layout.extent[0] / layout.rows, layout.extent[1] / layout.cols
        return self.placement.box(col * width, row * height, (col + 1) * width, (row + 1) * height)


def prepare(image: Image.Image, model: nn.Module, transform: Any = None) -> Photograph:
    """Make a model's input from a photograph, and remember how.

    Args:
        image: the photograph, as `load_photograph` gives it; other modes than RGB are converted.
        model: a timm model.
        transform: the preprocessing, where it is not the model's own; see `placement.place` for its steps.

    Returns:
        The photograph, its input tensor, and where the one lies on the other.

    Raises:
        ValueError: steps whose geometry is not known, or a model that does not state its preprocessing.

    Example:
        >>> model = timm.create_model("test_vit")
        >>> photograph = prepare(Image.new("RGB", (336, 168)), model)
        >>> photograph.input.shape, photograph.box_of_extent((160, 160))
        (torch.Size([3, 160, 160]), (88.0, 4.0, 248.0, 164.0))
    """
    rgb = to_rgb(image)
    transform = preprocessing(model) if transform is None else transform
    return Photograph(rgb, transform(rgb), place(transform, (rgb.height, rgb.width)))


def preprocessing(model: nn.Module) -> Any:
    """Build the transform that timm evaluates a model with.

    The input's size is the one the model was built for: timm's configuration keeps the size of the pretrained
    weights where `img_size` says otherwise.

    Args:
        model: a timm model; wrappers such as torch.compile's are looked into.

    Raises:
        ValueError: the model does not state its preprocessing.

    Example:
        >>> preprocessing(timm.create_model("vit_tiny_patch16_224", img_size=(96, 64))).transforms[1]
        CenterCrop(size=(96, 64))
    """
    model = unwrap(model)
    vit: Any = next((module for module in model.modules() if getattr(module, "pretrained_cfg", None)), None)
    if vit is None:
        raise ValueError(
            f"`model` must have timm's `pretrained_cfg`, which states its preprocessing, but "
            f"{type(model).__name__} has none. Give `prepare` the `transform` of its evaluation."
        )
    data: Any = timm.data  # its functions are untyped
    config = data.resolve_model_data_config(vit)
    built_for = getattr(getattr(vit, "patch_embed", None), "img_size", None)
    if built_for is not None:
        config["input_size"] = (config["input_size"][0], *built_for)
    return data.create_transform(**config, is_training=False)


def load_photograph(path: str | PathLike[str]) -> Image.Image:
    """Open a picture file the way up that it was taken, in RGB.

    Transparent parts become white; 16-bit values are scaled to 8 bits; of an animation, the first frame is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, truncated, larger than Pillow's limit for decompression bombs, or
            cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"`{path}` is too large a picture: {error}") from error
    except Exception as error:  # Decoders of broken files raise nearly anything: SyntaxError, struct.error, ...
        raise ValueError(
            f"`{path}` is not a picture that can be read (truncated, or no picture): {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What went wrong, without the file's name, which Pillow and the system give too."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify its format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB, transparent parts to white and 16 bits scaled to 8.

    Raises:
        ValueError: values that are not 8 or 16 bits, whose range is anybody's guess.

    Example:
        >>> to_rgb(Image.new("I;16", (1, 1), 32768)).getpixel((0, 0))
        (128, 128, 128)
    """
    if image.mode == "RGB":
        return image
    if image.mode[0] in "IF":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"`image` must have 8 or 16 bits a channel, but has {values.dtype} values from {values.min()} to "
            f"{values.max()}. Convert it first."
        )
    return np.round(values / 257).astype(np.uint8)
