"""Color the patches of images by the first three principal components of their features."""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.probe import probe
from vit_interactions.explain.patch_features import patch_features
from vit_interactions.functional.feature_pca import component_colors, principal_components


def feature_pca(
    model: nn.Module,
    images: Tensor,
    layer: int = -1,
    *,
    joint: bool = False,
    norm: bool = True,
    additional_forward_args: Any = None,
) -> Tensor:
    """Compute one color per patch from the first three principal components of the patches' features.

    Patches of similar colors have similar features. Components become red, green and blue, each scaled from its 2nd to
    its 98th percentile. For the components themselves, pass `patch_features` to
    `functional.feature_pca.principal_components`.

    Args:
        model: a ViT whose blocks follow one another in a list; it is not modified.
        images: (batch, channels, height, width).
        layer: index of the block whose features are used; negative counts from the last.
        joint: one set of components for all images of the batch, so that colors can be compared among images.
        norm: apply the model's final norm, as in `patch_features`.
        additional_forward_args: further positional arguments of the model; a tuple is spread.

    Returns:
        (batch, rows, cols, 3) in [0, 1], float64 on the CPU.

    Raises:
        UnsupportedModelError: no list of blocks, or a block that does not return one tensor of all tokens.
        IndexError: no such layer.

    Example:
        >>> import timm, torch
        >>> feature_pca(timm.create_model("test_vit"), torch.rand(2, 3, 160, 160), joint=True).shape
        torch.Size([2, 10, 10, 3])
    """
    features = patch_features(model, images, layer, norm=norm, additional_forward_args=additional_forward_args)
    colors = component_colors(principal_components(features, joint=joint).scores, joint=joint)
    return colors.reshape(len(images), *probe(model, images, additional_forward_args).layout.grid, -1)
