"""Attention sinks: tokens that receive attention far out of proportion, whatever the others look for.

Source: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, for the term; Darcet et al.,
"Vision Transformers Need Registers", ICLR 2024, for sinks among the patches of ViTs. As in Gu et al., "When Attention
Sink Emerges in Language Models", ICLR 2025, a token is judged by its mean attention over the queries. Their limit, a
fixed 0.3 of all attention, is replaced by a robust one that depends on the number of tokens and on the head.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from vit_interactions.functional.attention import BlockIndex, at_least_float32
from vit_interactions.utilities.html_table import html_table
from vit_interactions.utilities.text import plural

FAIR_SHARES = 5.0  # a sink receives more than this many times the attention that uniform attention would give it
DEVIATIONS = 10.0  # and more than the median plus this many robust standard deviations
SHOWN = 10  # images per table in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class AttentionSinks:
    """The attention sinks of a batch of images.

    Tokens are in the order: prefix tokens, then patches row by row.

    Attributes:
        layers: names of the layers' attention modules.
        grid: (rows, cols) of the patches.
        received: (batch, layers, heads, tokens) ≥ 0, the mean attention of all patches to each token, times the number
            of tokens; 1 is the fair share.
        value_norms: (batch, layers, heads, tokens) ≥ 0, Euclidean norm of each token's value; NaN in layers whose
            values are not one vector per head and token.
        is_sink: (batch, layers, heads, tokens) bool, the sinks of each head; see `exceeds_limit`.

    Example:
        >>> received = torch.tensor([[[[1.0, 0.6, 9.0] + [0.2] * 7]]])
        >>> sinks = AttentionSinks(("attn",), (3, 3), received, received, exceeds_limit(received))
        >>> sinks.prefix, sinks.patches.nonzero().tolist()
        (1, [[0, 1]])
        >>> sinks
        AttentionSinks(1 image, 1 layer of 1 head, 3 x 3 patches, sink patches per image: 1)
    """

    layers: tuple[str, ...]
    grid: tuple[int, int]
    received: Tensor
    value_norms: Tensor
    is_sink: Tensor

    @property
    def prefix(self) -> int:
        """The number of class, distillation and register tokens before the first patch."""
        return self.received.shape[-1] - self.grid[0] * self.grid[1]

    @property
    def mean_received(self) -> Tensor:
        """The attention that each token receives, averaged over layers and heads, (batch, tokens)."""
        return self.received.mean((1, 2))

    @property
    def tokens(self) -> Tensor:
        """The sinks of each image, by `mean_received`: (batch, tokens) bool."""
        return exceeds_limit(self.mean_received)

    @property
    def patches(self) -> Tensor:
        """The patches among the sinks of each image: (batch, patches) bool, row by row."""
        return self.tokens[:, self.prefix :]

    def __repr__(self) -> str:
        batch, layers, heads, _ = self.received.shape
        counts = ", ".join(str(int(count)) for count in self.patches.sum(-1)[:SHOWN])
        return (
            f"AttentionSinks({plural(batch, 'image')}, {plural(layers, 'layer')} of {plural(heads, 'head')}, "
            f"{self.grid[0]} x {self.grid[1]} patches, sink patches per image: {counts}{', ...' * (batch > SHOWN)})"
        )

    def _repr_html_(self) -> str:
        """Show the sinks of the first images as a table in notebooks."""
        relative = self.value_norms / self.value_norms.median(-1, keepdim=True).values
        rows = [
            [
                str(index),
                _places(patches, self.grid[1]),
                ", ".join(str(int(token)) for token in tokens[: self.prefix].nonzero()) or "none",
                f"{mean[self.prefix :].max():.1f}",
                _ratio(norms[is_sink]),
            ]
            for index, (patches, tokens, mean, norms, is_sink) in enumerate(
                islice(
                    zip(self.patches, self.tokens, self.mean_received, relative, self.is_sink, strict=True), SHOWN
                )
            )
        ]
        heads = [
            "image",
            "sink patches (row, col)",
            "sink prefix tokens",
            "most attention that a patch receives",
            "value norm of the heads' sinks",
        ]
        kept = len(self.received)
        images = plural(kept, "image") + (f", of which {SHOWN} are shown" * (kept > SHOWN))
        note = (
            f"Attention sinks among {self.grid[0]} × {self.grid[1]} patches and "
            f"{plural(self.prefix, 'prefix token')}, {images}. Attention received: 1 is the fair share. Value norm: "
            "median, relative to the head's median token."
        )
        return html_table(heads, rows, note)


class RunningSinks:
    """The attention that tokens receive in layers that are added one at a time and not stored.

    Example:
        >>> running = RunningSinks()
        >>> attention = torch.tensor([0.8, 0.1, 0.1]).expand(1, 1, 3, 3)
        >>> running.add(attention.mean(-2), torch.ones(1, 1, 3, 4))
        >>> running.result((1, 3)).received
        tensor([[[[2.4000, 0.3000, 0.3000]]]])
    """

    def __init__(self) -> None:
        """Start without layers."""
        self.layers: list[str] = []
        self._received: list[Tensor] = []
        self._value_norms: list[Tensor] = []

    def watch(
        self,
        rows: Iterable[tuple[BlockIndex, Tensor]],
        value: Tensor,
        shape: tuple[int, int, int],
        prefix: int,
        name: str | None = None,
    ) -> Iterator[tuple[BlockIndex, Tensor]]:
        """Pass on the attention among patches of one layer, and add the layer once all of it has been read.

        Args:
            rows: (index, attention of patches to all tokens) pairs, from `attention_rows`.
            value: as in `add`.
            shape: (batch, heads, tokens).
            prefix: number of tokens before the first patch.
            name: name of the layer.

        Yields:
            (index, attention among patches), as for `RunningUncertainty.update`, which overwrites it.
        """
        total = at_least_float32(value.new_zeros(shape))
        for index, block in rows:
            total[index[:2]] += block.sum(-2)
            yield index, block[..., prefix:]
        self.add(total / (shape[-1] - prefix), value, name)

    def add(self, attention: Tensor, value: Tensor, name: str | None = None) -> None:
        """Add one layer.

        Args:
            attention: (batch, heads, tokens), the mean attention of all patches to each token.
            value: (batch, heads, tokens, width); the norms of a tensor of another shape are NaN.
            name: name of the layer.

        Raises:
            ValueError: the shape differs from that of the previous layers.
        """
        name = f"layer {len(self.layers)}" if name is None else name
        attention = at_least_float32(attention)
        if self.layers and attention.shape != self._received[0].shape:
            raise ValueError(
                f"all layers must have the same heads and tokens: `{self.layers[0]}` has (batch, heads, tokens) "
                f"{tuple(self._received[0].shape)}, but `{name}` has {tuple(attention.shape)}."
            )
        self.layers.append(name)
        self._received.append(attention * attention.shape[-1])
        if value.shape[:-1] == attention.shape:
            norms = torch.linalg.vector_norm(at_least_float32(value.detach()), dim=-1)
        else:
            norms = torch.full_like(attention, torch.nan)
        self._value_norms.append(norms)

    def result(self, grid: tuple[int, int]) -> AttentionSinks:
        """Return the sinks of all layers added so far, for a grid (rows, cols) of patches, the last of the tokens.

        Raises:
            ValueError: no layer has been added.
        """
        if not self.layers:
            raise ValueError("attention sinks need the attention of at least one layer, got none.")
        received, value_norms = torch.stack(self._received, 1), torch.stack(self._value_norms, 1)
        is_sink = exceeds_limit(received)
        return AttentionSinks(tuple(self.layers), grid, received, value_norms, is_sink)


def exceeds_limit(received: Tensor) -> Tensor:
    """Mark tokens that receive more than max(5, median + 10 σ), with σ = 1.4826 · median |received − median|.

    5 fair shares exclude the tokens of an object that a head attends to evenly: fewer than a fifth of the tokens can
    exceed them. The robust limit excludes heads whose attention varies widely over all tokens. The norms of the values
    are not used: values are nearly 0 at sinks that let a head do nothing, but not at sinks that broadcast what they
    have gathered (Fesser et al., "A Unifying View of Attention Sinks", arXiv 2606.08105).

    Args:
        received: (..., tokens), in fair shares.

    Returns:
        (..., tokens) bool. Medians are lower medians, as in `torch.median`.

    Example:
        >>> exceeds_limit(torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 6.5]))
        tensor([False, False, False, False, False, False, False,  True])
    """
    median = received.median(-1, keepdim=True).values
    spread = 1.4826 * (received - median).abs().median(-1, keepdim=True).values
    return received > (median + DEVIATIONS * spread).clamp_min(FAIR_SHARES)


def _places(patches: Tensor, cols: int) -> str:
    """List up to five of the marked patches as (row, col)."""
    indices = patches.nonzero().squeeze(-1).tolist()
    shown = ", ".join(str(divmod(index, cols)) for index in indices[:5])
    return (shown or "none") + (f", {len(indices) - 5} more" if len(indices) > 5 else "")


def _ratio(norms: Tensor) -> str:
    """Format the median; a dash without norms, or if they are unknown."""
    return f"{norms.nanmedian():.2f}" if norms.isfinite().any() else "–"
