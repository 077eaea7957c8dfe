"""An image as a person sees it, as the model sees it, and how the two lie on each other."""

from dataclasses import dataclass
from typing import Any

import timm
from PIL import Image
from torch import Tensor, nn

from vit_interactions.attention import TokenLayout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.images.placement import Box, Placement, place
from vit_interactions.images.reading import to_rgb


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image and the model's view of it.

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


def prepare(image: Image.Image, model: nn.Module, transform: Any = None) -> PreparedImage:
    """Make a model's input from an image, and remember how.

    Args:
        image: the image, as `read_image` returns it; others are turned upright and converted to RGB as files are.
        model: a timm model.
        transform: the preprocessing, where it is not the model's own; see `placement.place` for its steps.

    Returns:
        The image, its input tensor, and where the one lies on the other.

    Raises:
        ValueError: steps whose geometry is not known, a model that does not state its preprocessing, or an image that
            `to_rgb` refuses.

    Example:
        >>> model = timm.create_model("test_vit")
        >>> prepared = prepare(Image.new("RGB", (336, 168)), model)
        >>> prepared.input.shape, prepared.box_of_extent((160, 160))
        (torch.Size([3, 160, 160]), (88.0, 4.0, 248.0, 164.0))
    """
    rgb = to_rgb(image)
    transform = preprocessing(model) if transform is None else transform
    return PreparedImage(rgb, transform(rgb), place(transform, (rgb.height, rgb.width)))


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
