"""Patch-interaction uncertainty U: how much the attention between two patches varies over layers and heads.

Source: Ma et al., "Visualizing and Understanding Patch Interactions in Vision Transformer",
arXiv 2203.05922, Eqs. 2 and 3. Variances are population variances, as the equations write them.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vit_interactions.functional.attention import BlockIndex, at_least_float32
from vit_interactions.utilities.checks import check_index

# Rows of U per block of the last step; keeps its temporaries small compared to the running sums.
_FINISH_ROWS = 32


class RunningUncertainty:
    """U of layers that are added one at a time and not stored.

    Keeps a running mean and a running sum of squared deviations (Welford's recurrence), each (batch, heads, patches,
    patches). Memory does not grow with the number of layers, there is no cancellation, and constant attention gives
    exactly 0.

    Example:
        >>> running = RunningUncertainty()
        >>> for level in (0.0, 1.0):
        ...     running.update_whole(torch.tensor([level, 0.0]).view(1, 2, 1, 1))
        >>> running.result()  # head variances over layers 1/4 and 0, their variance 1/64
        tensor([[[0.0156]]])
    """

    def __init__(self) -> None:
        """Start without layers."""
        self.layers: list[str] = []
        self._mean = torch.empty(0)
        self._squares = torch.empty(0)

    def update(
        self,
        blocks: Iterable[tuple[BlockIndex, Tensor]],
        shape: tuple[int, int, int, int],
        name: str | None = None,
    ) -> None:
        """Add the attention of one layer.

        Args:
            blocks: (index, attention) pairs that together cover `shape`, as from `AttentionCall.blocks`; overwritten.
            shape: (batch, heads, patches, patches).
            name: name of the layer in errors.

        Raises:
            ValueError: the shape differs from that of the previous layers.
        """
        name = f"layer {len(self.layers)}" if name is None else name
        if self.layers and shape != self._mean.shape:
            raise ValueError(
                f"all layers must have the same heads and patches: `{self.layers[0]}` has attention of shape "
                f"{tuple(self._mean.shape)}, but `{name}` has {tuple(shape)}."
            )
        self.layers.append(name)
        count = len(self.layers)
        for index, attention in blocks:
            if count == 1:
                if self._mean.shape != shape:
                    self._mean = attention.new_empty(shape)
                    self._squares = attention.new_zeros(shape)
                self._mean[index] = attention
            else:
                deviation = attention.sub_(self._mean[index])
                self._squares[index].addcmul_(deviation, deviation, value=(count - 1) / count)
                self._mean[index].add_(deviation, alpha=1 / count)

    def update_whole(self, attention: Tensor, name: str | None = None) -> None:
        """Add the attention of one layer among patches (batch, heads, patches, patches), which is not changed."""
        everything = (slice(None), slice(None), slice(None))
        self.update([(everything, at_least_float32(attention.clone()))], tuple(attention.shape), name)  # type: ignore[arg-type]

    def result(self) -> Tensor:
        """Return U (batch, patches, patches), all values ≥ 0.

        Raises:
            ValueError: no layer has been added.
        """
        if not self.layers:
            raise ValueError("U needs the attention of at least one layer, got none.")
        batch, _, patches, _ = self._squares.shape
        uncertainty = self._squares.new_empty(batch, patches, patches)
        for start in range(0, patches, _FINISH_ROWS):
            rows = slice(start, start + _FINISH_ROWS)
            per_head = self._squares[:, :, rows] / len(self.layers)
            # Much faster than `var` over this axis, and equally exact.
            uncertainty[:, rows] = (per_head - per_head.mean(1, keepdim=True)).square_().mean(1)
        return uncertainty


def uncertainty(attentions: Sequence[Tensor] | Tensor, prefix: int = 0) -> Tensor:
    """Quantify the interaction of each pair of patches from the attention of all layers (Eqs. 2, 3).

    This is the variance over heads of the variance over layers of the attention.

    Args:
        attentions: (batch, heads, tokens, tokens) per layer, or one tensor (layers, batch, heads, tokens, tokens).
        prefix: number of tokens before the first patch; their rows and columns are ignored.

    Returns:
        U (batch, patches, patches) ≥ 0. Row p is how much each patch matters to patch p. Column p is how informative
        patch p is to all others. U is not symmetric.

    Raises:
        ValueError: no layer, a tensor that is not (batch, heads, tokens, tokens), or layers that differ.

    Example:
        >>> always_the_same = torch.full((4, 1, 3, 5, 5), 0.2)
        >>> uncertainty(always_the_same, prefix=1).sum()
        tensor(0.)
    """
    if check_index("prefix", prefix) < 0:
        raise ValueError(f"`prefix` must be >= 0, got {prefix}.")
    running = RunningUncertainty()
    for layer, attention in enumerate(attentions):
        if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
            raise ValueError(
                f"`attentions` must have shape (batch, heads, tokens, tokens) per layer, got {tuple(attention.shape)} "
                f"in layer {layer}."
            )
        if prefix >= attention.shape[-1]:
            raise ValueError(f"`prefix` must be < {attention.shape[-1]}, the number of tokens, got {prefix}.")
        if not (attention.is_floating_point() and attention.isfinite().all()):
            raise ValueError(f"`attentions` must be finite floating-point numbers, got others in layer {layer}.")
        running.update_whole(attention[..., prefix:, prefix:])
    return running.result()
