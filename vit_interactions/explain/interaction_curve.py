"""Count the patch interactions inside the windows as a function of α, to choose α for a model.

Source: Ma et al., arXiv 2203.05922, Eq. 5 and Table 1 (E_O). A window is the bounding box of a patch's
candidates, so a few distant candidates per row open nearly the whole image, and E_O against α varies between models.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vit_interactions.explain.interaction_uncertainty import InteractionUncertainty
from vit_interactions.functional.responsive_field import responsive_field
from vit_interactions.utilities.checks import check_fraction
from vit_interactions.utilities.choices import PAPER_ALPHAS
from vit_interactions.utilities.html_table import html_table


class InteractionCurve(NamedTuple):
    """The number of patch interactions against α.

    Attributes:
        alphas: fractions of all patch pairs that count as relevant.
        operations: (images, alphas) int64: O per image.
        pairs: N², the patch pairs of an image.
    """

    alphas: tuple[float, ...]
    operations: Tensor
    pairs: int

    @property
    def expected(self) -> Tensor:
        """Mean E_O over images, (alphas,) float64."""
        return self.operations.double().mean(0)

    def _repr_html_(self) -> str:
        """Render E_O against α, with the range over images, as HTML for notebooks."""
        low, high = self.operations.min(0).values, self.operations.max(0).values
        rows = [
            [
                f"{alpha:g}",
                f"{mean:,.0f}",
                f"{mean / self.pairs:.1%}",
                f"{a / self.pairs:.1%} – {b / self.pairs:.1%}",
            ]
            for alpha, mean, a, b in zip(self.alphas, self.expected.tolist(), low, high, strict=True)
        ]
        images = len(self.operations)
        note = f"Patch interactions out of N² = {self.pairs:,}, for {images} image{'s' if images != 1 else ''}."
        return html_table(["α", "mean E_O", "fraction of all pairs", "range over images"], rows, note)


def interaction_curve(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    alphas: Sequence[float] = PAPER_ALPHAS,
    beta: float = 0.0,
    coverage: float = 1.0,
    exclude_sinks: bool = False,
) -> InteractionCurve:
    """Count the patch interactions inside the responsive fields, per image and α.

    Args:
        model: any ViT.
        images: (batch, channels, height, width), or an iterable of such batches, all of one image size.
        alphas: fractions of all patch pairs that count as relevant, each in [0, 1].
        beta: fraction of the patches dropped as indiscriminative; 0 counts the adaptive windows (Table 1 of the
            paper), > 0 the responsive fields (Table 2).
        coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the paper's
            bounding box. See `adaptive_windows`.
        exclude_sinks: leave out the attention sinks, which are then relevant to no other patch; see `attention_sinks`.

    Returns:
        The counts per image and α.

    Raises:
        ValueError: no image, images of several sizes, no α, or an α, β or coverage outside [0, 1].

    Example:
        >>> import timm
        >>> curve = interaction_curve(timm.create_model("test_vit"), torch.zeros(1, 3, 160, 160), (0.0, 1.0))
        >>> curve.expected.tolist(), curve.pairs
        ([100.0, 10000.0], 10000)
    """
    if not alphas:
        raise ValueError("`alphas` must contain at least one fraction, got none.")
    for alpha in alphas:
        check_fraction("alpha", alpha)
    check_fraction("beta", beta)
    check_fraction("coverage", coverage)
    explainer = InteractionUncertainty(model, exclude_sinks)
    counts: list[Tensor] = []
    grids: set[tuple[int, int]] = set()
    for batch in [images] if isinstance(images, Tensor) else images:
        uncertainty, layout, exclude = explainer.compute(batch)
        grids.add(layout.grid)
        if len(grids) > 1:
            raise ValueError(f"`images` must be of one size, got grids of {sorted(grids)} patches.")
        fields = (
            responsive_field(uncertainty, layout.grid, alpha, beta, coverage=coverage, exclude=exclude)
            for alpha in alphas
        )
        counts.append(torch.stack([field.operations for field in fields], 1).cpu())
    if not counts:
        raise ValueError("`images` must contain at least one batch, got none.")
    return InteractionCurve(tuple(alphas), torch.cat(counts), math.prod(grids.pop()) ** 2)
