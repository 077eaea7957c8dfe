"""What a self-supervised model recognises: a score from its nearest neighbours instead of a class.

Source: Liao, Gao and Zhang, Dynamic Accumulated Attention Map, 2025, "dimension-wise importance weights", with the
published code's settings (20 neighbours, temperature 0.07). A score is a target of any class-specific method.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.borrow import borrowed
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.utilities.checks import check_index


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


def read_features(output: Any) -> Tensor:
    """Read the features (batch, width) from a model's output: itself, or its `pooler_output`, as of transformers.

    Raises:
        ValueError: it has none.

    Example:
        >>> read_features(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    features = getattr(output, "pooler_output", output)
    if isinstance(features, Tensor) and features.ndim == 2:
        return features
    came = tuple(features.shape) if isinstance(features, Tensor) else type(output).__name__
    raise ValueError(
        "MemoryBank needs a model whose output is (batch, width) features, or has them as `pooler_output`, but it is "
        f"{came}. Wrap the model in a module that returns them, e.g. `output.last_hidden_state[:, 0]`."
    )


class MemoryBank:
    """A target for models without classes: ⟨f, w⟩, w from the neighbours of f that share the most likely label.

    Methods that score other inputs too keep the image's own w for all of them: TAM and Beyond Intuition along their
    path, LeGrad for each block.

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
            ValueError: features that are not (references, width) or not finite; as many labels as there are no
                references; `neighbours` < 1; `temperature` not finite or <= 0.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"`features` must have shape (references, width), but got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise ValueError("`features` must be finite, but got NaN or infinite values.")
        if labels is not None and labels.shape != features.shape[:1]:
            raise ValueError(
                f"`labels` must have shape ({features.shape[0]},), one a reference, but got {tuple(labels.shape)}."
            )
        neighbours = check_index("neighbours", neighbours)
        if neighbours < 1:
            raise ValueError(f"`neighbours` must be >= 1, but got {neighbours}.")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be finite and > 0, but got {temperature}.")
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
            model: a model whose output is (batch, width) features, e.g. of timm with `num_classes=0`, or has them as
                `pooler_output`, as transformers' models without a classifier do.
            batches: e.g. a DataLoader.
            settings: `neighbours` and `temperature`.

        Raises:
            ValueError: no batch, or an output without features.
        """
        collected = []
        with borrowed(unwrap(model)) as own:
            for images, labels in batches:
                collected.append((read_features(own(images)), labels))
        if not collected:
            raise ValueError("`batches` must hold at least one batch of (images, labels), but got none.")
        features, labels = (torch.cat(parts) for parts in zip(*collected, strict=True))
        return cls(features, labels, **settings)  # type: ignore[arg-type]

    def __call__(self, output: Any) -> Tensor:
        """Score a model's output, features (batch, width): (batch,); the weights are constants of the derivative.

        Raises:
            ValueError: an output without features, or of another width than the references.
        """
        return self.fixed(output)(output)

    def fixed(self, output: Any) -> Callable[[Any], Tensor]:
        """Hold the weights that an output's features have, as a target: other outputs are scored by the same."""
        features = read_features(output).detach()
        if features.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"MemoryBank holds features of width {self.features.shape[1]}, but the model's have width "
                f"{features.shape[1]}."
            )
        weights = torch.stack([self.weights(feature) for feature in features])

        def score(output: Any) -> Tensor:
            features = read_features(output)
            return (features * weights.to(features.dtype)).sum(1)

        return score

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
