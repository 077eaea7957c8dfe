"""A target for self-supervised models: a score from the nearest neighbors of an image instead of a class.

Source: Liao, Gao and Zhang, Dynamic Accumulated Attention Map, 2025, "dimension-wise importance weights", with the
published code's settings (20 neighbors, temperature 0.07). Any class-specific method takes it as `target`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.utilities.checks import check_index


def dimension_weights(feature: Tensor, references: Tensor) -> Tensor:
    """Weight the dimensions of a feature by their agreement with references, from 0 to 1.

    q = mean over references of f^ · z^, dimension by dimension, f^ and z^ of length 1; then scaled to [0, 1].

    Args:
        feature: (width,).
        references: (references, width).

    Returns:
        (width,) in [0, 1]; all 1 if every dimension agrees equally.

    Example:
        >>> dimension_weights(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        tensor([1., 0.])
    """
    agreement = (F.normalize(feature, dim=-1) * F.normalize(references, dim=-1)).mean(0)
    span = agreement.max() - agreement.min()
    return (agreement - agreement.min()) / span if span > 0 else torch.ones_like(agreement)


def read_features(output: Any) -> Tensor:
    """Read the features (batch, width) from a model's output: the output itself, or its `pooler_output` (transformers).

    Raises:
        ValueError: an output without features.

    Example:
        >>> read_features(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    features = getattr(output, "pooler_output", output)
    if isinstance(features, Tensor) and features.ndim == 2:
        return features
    came = tuple(features.shape) if isinstance(features, Tensor) else type(output).__name__
    raise ValueError(
        "MemoryBank needs a model whose output is (batch, width) features, or has them as `pooler_output`, got "
        f"{came}. Wrap the model in a module that returns them, e.g. `output.last_hidden_state[:, 0]`."
    )


class MemoryBank:
    """A target for models without classes: ⟨f, w⟩, with w from the neighbors of f that share the most likely label.

    TAM, Beyond Intuition and LeGrad score other inputs too (along a path, or per block); these use the image's own w.

    Attributes:
        features: (references, width), normalized to length 1.
        labels: (references,) int64, or None to use all neighbors.
        neighbors: number of nearest references that vote.
        temperature: temperature of the votes, exp(similarity / temperature).

    Example:
        >>> bank = MemoryBank(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), torch.tensor([7, 7, 3]))
        >>> bank(torch.tensor([[0.6, 0.8]]))  # w = (1, 0)
        tensor([0.6000])
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        neighbors: int = 20,
        temperature: float = 0.07,
    ) -> None:
        """Create the target from features of the same model, prototypes, or text embeddings.

        Raises:
            ValueError: features that are not (references, width) or not finite; labels that do not match
                the references; `neighbors` < 1; `temperature` not finite or <= 0.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"`features` must have shape (references, width), got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise ValueError("`features` must be finite, got NaN or infinite values.")
        if labels is not None and labels.shape != features.shape[:1]:
            raise ValueError(
                f"`labels` must have shape ({features.shape[0]},), one per reference, got {tuple(labels.shape)}."
            )
        neighbors = check_index("neighbors", neighbors)
        if neighbors < 1:
            raise ValueError(f"`neighbors` must be >= 1, got {neighbors}.")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be finite and > 0, got {temperature}.")
        self.features = F.normalize(features.detach().float(), dim=-1)
        self.labels = labels
        self.neighbors = min(neighbors, features.shape[0])
        self.temperature = temperature

    @classmethod
    @torch.no_grad()
    def build(
        cls, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], **settings: int | float
    ) -> "MemoryBank":
        """Collect the features of a model over batches of (images, labels).

        Args:
            model: a model whose output is (batch, width) features, e.g. a timm model with `num_classes=0`, or has them
                as `pooler_output`, like transformers models without a classifier.
            batches: e.g. a DataLoader.
            settings: `neighbors` and `temperature`.

        Raises:
            ValueError: no batch, or an output without features.
        """
        collected = []
        with evaluation_mode(unwrap(model)) as own:
            for images, labels in batches:
                collected.append((read_features(own(images)), labels))
        if not collected:
            raise ValueError("`batches` must contain at least one batch of (images, labels), got none.")
        features, labels = (torch.cat(parts) for parts in zip(*collected, strict=True))
        return cls(features, labels, **settings)  # type: ignore[arg-type]

    def __call__(self, output: Any) -> Tensor:
        """Return scores (batch,) of a model's output, features (batch, width); gradients treat the weights as constant.

        Raises:
            ValueError: an output without features, or with a width that differs from the references'.
        """
        return self.fixed(output)(output)

    def fixed(self, output: Any) -> Callable[[Any], Tensor]:
        """Return a target that scores other outputs with the weights of this output's features."""
        features = read_features(output).detach()
        if features.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"the model's features must have the memory bank's width {self.features.shape[1]}, got "
                f"{features.shape[1]}."
            )
        weights = torch.stack([self.weights(feature) for feature in features])

        def score(output: Any) -> Tensor:
            features = read_features(output)
            return (features * weights.to(features.dtype)).sum(1)

        return score

    def weights(self, feature: Tensor) -> Tensor:
        """Weight the dimensions of one feature (width,) by the neighbors with its most likely label."""
        references = self.features.to(feature.device)
        similarity = references @ F.normalize(feature.float(), dim=-1)
        nearest = similarity.topk(self.neighbors)
        chosen = nearest.indices
        if self.labels is not None:
            labels = self.labels.to(feature.device)[chosen]
            votes = (nearest.values / self.temperature).softmax(0)
            known, place = torch.unique(labels, return_inverse=True)
            winner = known[torch.zeros_like(known, dtype=votes.dtype).index_add(0, place, votes).argmax()]
            chosen = chosen[labels == winner]
        return dimension_weights(feature.float(), references[chosen])
