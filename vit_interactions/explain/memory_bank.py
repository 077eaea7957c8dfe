"""What a self-supervised model recognises: a score from its nearest neighbours instead of a class.

Source: Liao, Gao and Zhang, Dynamic Accumulated Attention Map, 2025, "dimension-wise importance weights", with the
published code's settings (20 neighbours, temperature 0.07). A score is a target of any class-specific method.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.observe import evaluating


def dimension_weights(feature: Tensor, references: Tensor) -> Tensor:
    """Weigh the dimensions of a feature by how far they agree with references, from 0 to 1.

    q = mean over references of f^ · z^, dimension by dimension, f^ and z^ of length 1; then scaled to [0, 1].

    Args:
        feature: (width,).
        references: (references, width).

    Returns:
        (width,) in [0, 1]; all 1 where every dimension agrees alike.

    Example:
        >>> dimension_weights(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        tensor([1., 0.])
    """
    agreement = (F.normalize(feature, dim=-1) * F.normalize(references, dim=-1)).mean(0)
    span = agreement.max() - agreement.min()
    return (agreement - agreement.min()) / span if span > 0 else torch.ones_like(agreement)


class MemoryBank:
    """A target for models without classes: ⟨f, w⟩, w from the neighbours of f that share the most likely label.

    Attributes:
        features: (references, width), of length 1 each.
        labels: (references,) int64, or None: all neighbours count.
        neighbours: how many of the nearest vote.
        temperature: of the votes, exp(similarity / temperature).

    Example:
        >>> bank = MemoryBank(torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), torch.tensor([7, 7, 3]))
        >>> bank(torch.tensor([[0.6, 0.8]]))  # w = (1, 0)
        tensor([0.6000])
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        neighbours: int = 20,
        temperature: float = 0.07,
    ) -> None:
        """Take the references: features of the same model, prototypes, or text embeddings.

        Raises:
            ValueError: features that are not (references, width), or as many labels as there are no references.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"`features` must have shape (references, width), but got {tuple(features.shape)}.")
        if labels is not None and labels.shape != features.shape[:1]:
            raise ValueError(
                f"`labels` must have shape ({features.shape[0]},), one a reference, but got {tuple(labels.shape)}."
            )
        self.features = F.normalize(features.detach().float(), dim=-1)
        self.labels = labels
        self.neighbours = min(neighbours, features.shape[0])
        self.temperature = temperature

    @classmethod
    @torch.no_grad()
    def build(
        cls, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], **settings: int | float
    ) -> "MemoryBank":
        """Collect the features of a model over batches of (images, labels).

        Args:
            model: a model whose output is (batch, width) features, e.g. of timm with `num_classes=0`.
            batches: e.g. a DataLoader.
            settings: `neighbours` and `temperature`.

        Raises:
            ValueError: no batch.
        """
        collected = []
        with evaluating(model):
            for images, labels in batches:
                collected.append((model(images), labels))
        if not collected:
            raise ValueError("`batches` must hold at least one batch of (images, labels), but got none.")
        features, labels = (torch.cat(parts) for parts in zip(*collected, strict=True))
        return cls(features, labels, **settings)  # type: ignore[arg-type]

    def __call__(self, features: Tensor) -> Tensor:
        """Score a model's output (batch, width): (batch,); the weights are constants of the derivative."""
        return torch.stack([feature @ self.weights(feature.detach()).to(feature.dtype) for feature in features])

    def weights(self, feature: Tensor) -> Tensor:
        """Weigh the dimensions of one feature (width,) by the neighbours that carry its most likely label."""
        references = self.features.to(feature.device)
        similarity = references @ F.normalize(feature.float(), dim=-1)
        nearest = similarity.topk(self.neighbours)
        chosen = nearest.indices
        if self.labels is not None:
            labels = self.labels.to(feature.device)[chosen]
            votes = (nearest.values / self.temperature).softmax(0)
            known, place = torch.unique(labels, return_inverse=True)
            winner = known[torch.zeros_like(known, dtype=votes.dtype).index_add(0, place, votes).argmax()]
            chosen = chosen[labels == winner]
        return dimension_weights(feature.float(), references[chosen])
