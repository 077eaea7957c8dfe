"""The random baseline. A method that does not beat it is not informative."""

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.base import Explainer


class RandomMap(Explainer):
    """Independent uniform values in [0, 1), the same for the same image and seed.

    Example:
        >>> import timm, torch
        >>> explainer, image = RandomMap(timm.create_model("test_vit")), torch.zeros(1, 3, 160, 160)
        >>> torch.equal(explainer.patch_map(image), explainer.patch_map(image))
        True
    """

    needs_attention = False
    forwards = 0
    quantity = "random number"
    source = "random baseline, after Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        """Create the explainer.

        Args:
            model: any model; only its grid of patches is used.
            seed: maps with other seeds are independent.
        """
        super().__init__(model)
        self.seed = seed

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        layout = image_layout(self.model, inputs, additional_forward_args)
        return torch.stack([self._draw(image, layout.patches) for image in inputs]).to(inputs.device), layout

    def _draw(self, image: Tensor, patches: int) -> Tensor:
        # Seeded by the image, so that batching does not change its map.
        content = image.detach().to("cpu", torch.float64).numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(content) + self.seed)
        return torch.rand(patches, generator=generator, device=generator.device)
