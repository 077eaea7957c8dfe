"""The models of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.images.prepared import PreparedImage, prepare, preprocessing
from vit_interactions.loading.models import load_model
from vit_interactions.models.trained_windows import trained_windows
from vit_interactions.utilities.checksum import architecture_checksum, checksum


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison.

    Attributes:
        model: in evaluation mode on its device.
        named: True if its classes are those of timm's own weights, whose names are known.
        trained: alpha and beta that it was trained with, if known.
    """

    model: nn.Module
    named: bool
    trained: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the input normalization, one number per channel.

        Raises:
            ValueError: the model does not state its preprocessing, or does not normalize as timm does.
        """
        steps = preprocessing(self.model).transforms
        step = next((step for step in steps if isinstance(step, transforms.Normalize)), None)
        if step is None:
            raise ValueError(
                "`model` must have a preprocessing with a mean and a standard deviation, got one without."
            )
        mean, std = (tuple(torch.as_tensor(values).flatten().tolist()) for values in (step.mean, step.std))
        return mean, std

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return next(self.model.parameters()).device

    def batch_of(self, image: PreparedImage) -> Tensor:
        """Return a prepared image as (1, channels, height, width), on the device and in the type of the weights."""
        kind = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), image.input.dtype)
        return image.input.unsqueeze(0).to(self.device, kind)

    def describe(self) -> dict[str, Any]:
        """Return what its results depend on: device, preprocessing, weights and architecture."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
            "preprocessing": str(preprocessing(self.model)),
            # The text of the preprocessing rounds these to four digits.
            "normalization": [list(values) for values in self.normalization],
            "weights": checksum(self.model),
            "architecture": architecture_checksum(self.model),
            "named": self.named,
            "trained": dict(self.trained),
        }


def load_models(model: str | nn.Module | Mapping[str, str | nn.Module], device: str) -> dict[str, ComparedModel]:
    """Load the models that are given by name, and check that each is supported.

    Raises:
        ValueError: no model, or one that does not state its preprocessing.
        TypeError: neither a name nor a model.
        UnsupportedModelError: a model that cannot be run.
    """
    if isinstance(model, str):
        model = {model: model}
    elif isinstance(model, nn.Module):
        model = {type(unwrap(model)).__name__: model}
    if not isinstance(model, Mapping):
        raise TypeError(
            f"`model` must be a name, a model, or a dict of them by display name, got {type(model).__name__}."
        )
    if not model:
        raise ValueError("`model` must name at least one model, got none.")
    models = {}
    for name, given in model.items():
        if not isinstance(given, str | nn.Module):
            raise TypeError(f"`model` must be names or models, got {type(given).__name__} for {name!r}.")
        if isinstance(given, str):
            loaded = load_model(given, device=device, needs_attention=False)
            models[name] = ComparedModel(loaded, named=True, trained=trained_windows(given))
        else:
            models[name] = ComparedModel(unwrap(given), named=False)
        _ = models[name].normalization  # raises if there is none
        height, width = prepare(Image.new("RGB", (64, 64)), models[name].model).input.shape[-2:]
        image_layout(models[name].model, (height, width))  # raises if the model does not run
    return models
