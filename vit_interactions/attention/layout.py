"""Positions of the patches in a model's token sequence, and the tokens that the output is read from."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError

Readout = Literal["token", "distilled", "avg", "map", "token_avg", "other"]
READ_FROM: dict[Readout, str] = {
    "token": "class token",
    "distilled": "class token and distillation token",
    "avg": "mean of the patches",
    "map": "attention pooling",
    "token_avg": "class token and mean of the patches",
    "other": "the tokens, by weights that are not fixed",
}


@dataclass(frozen=True)
class TokenLayout:
    """The order of a model's tokens for one image size: prefix tokens, then the patches row by row.

    Attributes:
        prefix: number of class, distillation and register tokens before the first patch.
        rows: rows of patches, row 0 at the top.
        cols: columns of patches, column 0 at the left.
        readout: the tokens that the output is computed from: the class token ("token"), class and distillation token
            ("distilled"), the mean of tokens ("avg"), an attention-pooling head ("map"), or the class token and the
            mean of the patches ("token_avg"). "other" is none of these.
        extent: (height, width) in pixels of the input that the grid covers; more than the image if the model pads it,
            less if the model ignores a margin at the right or bottom.
        pool_prefix: whether the mean includes prefix tokens. Not used for a pooling head.
        order: the model's index of each token, if the model has its tokens in another order.
        shares: each token's share in the output, if it is fixed but not given by `readout`: for a score of one patch,
            or a class token and mean that do not count half each.
    """

    prefix: int
    rows: int
    cols: int
    readout: Readout
    extent: tuple[int, int]
    pool_prefix: bool = False
    order: tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def patches(self) -> int:
        """The number of patches."""
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        """The number of tokens, prefix included."""
        return self.prefix + self.patches

    def places(self, count: int) -> Tensor:
        """Return the model's index of each token, (count,) int64, in its sequence of all tokens or of the patches only.

        Example:
            >>> layout = TokenLayout(1, 1, 3, "token", (16, 48), order=(3, 2, 1, 0))  # the class token behind
            >>> layout.places(4), layout.places(3)
            (tensor([3, 2, 1, 0]), tensor([2, 1, 0]))
        """
        order = torch.tensor(self.order or range(self.tokens), device="cpu")
        return order if count == self.tokens else order[self.prefix :].argsort().argsort()

    def readout_weights(self, pool_attention: Tensor | None = None) -> Tensor:
        """Return each token's share in the model's output.

        If class token and mean of the patches are concatenated, they count half each, though a classifier may weight
        them differently per class. If they are added, their weights are observed (`shares`).

        Args:
            pool_attention: (batch, heads, latents, keys), attention of the pooling head, for "map" only; the keys are
                all tokens, or the patches only.

        Returns:
            (1 or batch, tokens) float32, ≥ 0, each row summing to 1.

        Raises:
            UnsupportedModelError: the output is read from the tokens in another way.
            ValueError: a "map" readout without `pool_attention`, or with one of another length.

        Example:
            >>> TokenLayout(prefix=2, rows=1, cols=2, readout="distilled", extent=(16, 32)).readout_weights()
            tensor([[0.5000, 0.5000, 0.0000, 0.0000]])
        """
        if self.readout == "map":
            return self._pool_weights(pool_attention)
        if self.shares is not None:
            return torch.tensor([self.shares], device="cpu")
        if self.readout == "other":
            raise UnsupportedModelError(
                "the tokens of the last layer do not have fixed weights in the output: the model may take their "
                "maximum, weight their features differently, or read earlier layers. Methods that start from the "
                "tokens of the output do not support it. Use a model that reads a class token or a mean of tokens, a "
                "`target` of one patch, or a method that needs no readout, such as U or AttnLRP."
            )
        weights = torch.zeros(1, self.tokens, device="cpu")
        if self.readout == "avg":
            weights[:, 0 if self.pool_prefix else self.prefix :] = 1.0
        elif self.readout == "token_avg":
            weights[:, 0], weights[:, self.prefix :] = 1.0, 1.0 / self.patches
        else:
            weights[:, : 2 if self.readout == "distilled" else 1] = 1.0
        return weights / weights.sum()

    def _pool_weights(self, pool_attention: Tensor | None) -> Tensor:
        if pool_attention is None or pool_attention.shape[-1] not in (self.tokens, self.patches):
            came = "none" if pool_attention is None else f"shape {tuple(pool_attention.shape)}"
            raise ValueError(
                "a model with an attention-pooling head needs its `pool_attention` (batch, heads, latents, keys) "
                f"over {self.tokens} tokens or {self.patches} patches, got {came}."
            )
        return nn.functional.pad(pool_attention.mean((1, 2)), (self.tokens - pool_attention.shape[-1], 0))

    def __str__(self) -> str:
        """Describe the layout in one line.

        Example:
            >>> print(TokenLayout(prefix=1, rows=16, cols=16, readout="token", extent=(224, 224)))
            16 x 16 patches of 14 x 14 px, 1 prefix token, read from: class token
        """
        height, width = self.extent[0] / self.rows, self.extent[1] / self.cols
        prefix = f"{self.prefix} prefix token{'' if self.prefix == 1 else 's'}"
        order = ", its tokens in another order (`layout.order`)" if self.order else ""
        source = READ_FROM[self.readout]
        if self.shares is not None and self.readout == "other":
            read = [token for token, share in enumerate(self.shares) if share > 0]
            row, col = divmod(read[0] - self.prefix, self.cols)
            source = f"prefix token {read[0]}" if row < 0 else f"the patch in row {row}, column {col}"
            source = source if len(read) == 1 else f"{len(read)} tokens in fixed shares"
        return (
            f"{self.rows} x {self.cols} patches of {height:g} x {width:g} px, {prefix}{order}, read from: "
            f"{source}{' and prefix tokens' if self.pool_prefix else ''}"
        )
