"""Preprocess an image for a model and remember where the input lies on the original."""

from dataclasses import dataclass
from typing import Any

import timm
from PIL import Image
from torch import Tensor, nn

from vit_interactions.attention import TokenLayout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.images.placement import Bounds, Placement, place
from vit_interactions.images.reading import to_rgb


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image and the model input made from it.

    Attributes:
        image: the original, upright and RGB.
        input: (3, height, width), the model input.
        placement: position of the input on the original.
    """

    image: Image.Image
    input: Tensor
    placement: Placement

    def box_of_extent(self, extent: tuple[int, int]) -> Bounds:
        """Return the area that the patch grid covers.

        Args:
            extent: (height, width) in pixels of the input; `TokenLayout.extent`.

        Returns:
            (left, top, right, bottom) in pixels of the original; exceeds it if the input was padded.
        """
        height, width = extent
        return self.placement.box(0, 0, width, height)

    def patch_box(self, row: int, col: int, layout: TokenLayout) -> Bounds:
        """Return the area of one patch: (left, top, right, bottom) in pixels of the original."""
        height, width = layout.extent[0] / layout.rows, layout.extent[1] / layout.cols
        return self.placement.box(col * width, row * height, (col + 1) * width, (row + 1) * height)


def prepare(image: Image.Image, model: nn.Module, transform: Any = None) -> PreparedImage:
    """Preprocess an image for a model.

    Args:
        image: PIL image; it is turned upright and converted to RGB.
        model: a timm model.
        transform: preprocessing to use instead of the model's; see `place` for supported steps.

    Raises:
        ValueError: a step is not supported, the model does not state its preprocessing, or `to_rgb` does not support
            the image.

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
    """Create timm's evaluation transform for a model.

    The input has the size that the model was created with (`img_size`), which timm's configuration does not reflect.

    Args:
        model: a timm model, optionally compiled or wrapped.

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
            f"`model` must have timm's `pretrained_cfg`, which states its preprocessing, got "
            f"{type(model).__name__} without one. Pass its evaluation transform to `prepare` as `transform`."
        )
    create_transform: Any = timm.data.create_transform  # untyped
    return create_transform(**data_config(vit), is_training=False)


def data_config(model: nn.Module) -> dict[str, Any]:
    """Return timm's data configuration of a model, with the input size that the model was created with (`img_size`).

    Example:
        >>> data_config(timm.create_model("vit_tiny_patch16_224", img_size=(96, 64)))["input_size"]
        (3, 96, 64)
    """
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if built_for is not None:
        config["input_size"] = (config["input_size"][0], *built_for)
    return config
