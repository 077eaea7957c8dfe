"""Quantize the similarity of patch features to one byte per pair, and their principal components to colors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_interactions.figures.display import linear_limits
from vit_interactions.functional.feature_pca import component_colors, principal_components
from vit_interactions.functional.similarity import cosine_similarity

EVERY_LAYER = 2**19  # most pairs for which every layer is kept: 12 layers of 17 x 17 patches
ONE_LAYER = 2**20  # most pairs for which the last layer is kept: 38 x 38 patches
STEPS = 80  # of 0.025, from similarity -1 to 1; finer ones would let pages of 12 x 12 heads grow beyond 3 MB


@dataclass(frozen=True, eq=False)
class QuantizedFeatures:
    """Quantized similarity of the patches' features of one image.

    Attributes:
        layers: indices of the layers that are kept: all, the last, or none, to limit the page size.
        similarity: (layers, pairs) uint8, 40 · (similarity + 1) of each pair p > q, ordered by p, then q.
        colors: (layers, patches, 3) uint8, the principal components as red, green and blue.
        explained: (layers, 3), each component's fraction of the variance.
    """

    layers: tuple[int, ...]
    similarity: NDArray[np.uint8]
    colors: NDArray[np.uint8]
    explained: NDArray[np.float64]

    def packed(self) -> NDArray[np.uint8]:
        """Return each layer's similarity minus that of the layer before, modulo 256, which compresses better."""
        return np.diff(self.similarity, axis=0, prepend=np.uint8(0))

    def ends(self) -> NDArray[np.uint8]:
        """Return the ends of the color scale of each patch's similarities, without its own, in steps.

        Returns:
            (layers, patches, 2), from `linear_limits`.
        """
        count = self.colors.shape[1]
        if count == 1:
            return np.full((len(self.layers), 1, 2), STEPS, np.uint8)
        rows, cols = np.tril_indices(count, -1)
        ends = np.empty((len(self.layers), count, 2), np.uint8)
        for place, steps in enumerate(self.similarity):
            values = np.full((count, count), np.nan)
            values[rows, cols] = values[cols, rows] = steps / (STEPS / 2) - 1
            ends[place] = np.round((np.stack(linear_limits(values), -1) + 1) * (STEPS / 2))
        return ends


def quantize_features(features: Sequence[Tensor]) -> QuantizedFeatures:
    """Quantize the features after all blocks of one image, in a form that fits its size.

    Args:
        features: (patches, width) per layer.

    Example:
        >>> quantize_features([torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])]).similarity
        array([[40,  0, 40]], dtype=uint8)
    """
    patches = len(features[0])
    pairs = patches * (patches - 1) // 2
    layers = tuple(range(len(features)))
    if len(layers) * pairs > EVERY_LAYER:
        layers = layers[-1:] if pairs <= ONE_LAYER else ()
    below = torch.ones(patches, patches).tril(-1).bool()
    similarity = np.empty((len(layers), pairs), np.uint8)
    colors = np.empty((len(layers), patches, 3), np.uint8)
    explained = np.empty((len(layers), 3))
    for place, layer in enumerate(layers):
        exact = cosine_similarity(features[layer][None])[0].cpu()[below]
        similarity[place] = ((exact + 1) * (STEPS / 2)).round().to(torch.uint8).numpy()
        found = principal_components(features[layer][None])
        colors[place] = (component_colors(found.scores)[0] * 255).round().to(torch.uint8).numpy()
        explained[place] = found.explained[0].numpy()
    return QuantizedFeatures(layers, similarity, colors, explained)
