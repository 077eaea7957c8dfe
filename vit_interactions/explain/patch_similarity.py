"""Cosine similarity of the features of patches, from the model's own tokens after any block.

Source: the usual first look at self-supervised features, e.g. Siméoni et al., "DINOv3", arXiv 2508.10104, Fig. 3.
"""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.chosen_patch import ChosenPatchExplainer
from vit_interactions.explain.interaction_uncertainty import patch_index
from vit_interactions.explain.patch_features import BlockOutputs, layer_names
from vit_interactions.functional.similarity import cosine_similarity, mean_similarity
from vit_interactions.utilities.checks import check_index


class PatchSimilarity(ChosenPatchExplainer):
    """The cosine similarity of a chosen patch to all patches, or each patch's mean similarity to the others.

    Values are in [-1, 1]. A layer that the model does not have raises IndexError.

    Example:
        >>> import timm, torch
        >>> explainer = PatchSimilarity(timm.create_model("test_vit"), layer=3)
        >>> similar = explainer.patch_map(torch.rand(2, 3, 160, 160), patch=(5, 7))
        >>> similar.shape, bool(similar.max() <= 1)
        (torch.Size([2, 10, 10]), True)
    """

    quantity = "mean cosine similarity to other patches"
    source = "DINOv3, arXiv 2508.10104"

    def __init__(self, model: nn.Module, layer: int = -1, norm: bool = True) -> None:
        """Create the explainer.

        Args:
            model: a ViT whose blocks follow one another in a list.
            layer: index of the block whose features are compared; negative counts from the last.
            norm: apply the model's final norm, as in `patch_features`.
        """
        super().__init__(model)
        self.layer, self.norm = check_index("layer", layer), norm

    def similarity(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> Tensor:
        """Compute the similarity of all pairs of patches, (batch, patches, patches) in [-1, 1].

        Args:
            inputs: (batch, channels, height, width).
            target: checked only; features do not depend on a class.
            additional_forward_args: further arguments of the model; a tuple is spread.
        """
        return cosine_similarity(self._features(only_tensor(inputs), target, additional_forward_args)[0])

    def _values(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, patch: tuple[int, int] | None
    ) -> tuple[Tensor, TokenLayout]:
        features, layout = self._features(inputs, target, additional_forward_args)
        if patch is None:
            return mean_similarity(features), layout
        return cosine_similarity(features, patch_index(patch, layout)), layout

    def _features(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        own = self._on_copy()
        blocks = BlockOutputs(own.model, layer_names(self.model, inputs, additional_forward_args), self.layer)
        with blocks.kept():
            seen = own._observe(inputs, target, additional_forward_args, lambda *_: None)
        return blocks.patches(self.layer, seen, norm=self.norm), seen.layout
