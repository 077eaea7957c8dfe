"""Draw the number of patch interactions inside the windows as a function of α."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from vit_interactions.explain.interaction_curve import InteractionCurve
from vit_interactions.figures.values import text_width, to_array
from vit_interactions.utilities.arrays import Array

COLOR = "#0072b2"
TICK_SIZE = 8  # points
TICK_GAP = 4  # points between tick labels


class _ApartFormatter(Formatter):
    """A formatter that labels only ticks of a horizontal axis whose labels do not overlap, and always the last one."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}"

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels from left to right, with those that would overlap left blank."""
        names = [self(value) for value in values]
        axes: Any = self.axis
        dots = axes.axes.transData.transform([(value, axes.axes.get_ylim()[1]) for value in values])[:, 0]
        middles = dots * 72 / axes.get_figure(root=True).dpi
        halves = [text_width(name, TICK_SIZE) / 2 + TICK_GAP / 2 for name in names]
        return _keep_apart(names, middles - halves, middles + halves)


def _keep_apart(names: list[str], starts: Array, ends: Array) -> list[str]:
    """Blank the names that would overlap a name kept before them or the last one.

    Example:
        >>> _keep_apart(["a", "b", "c", "d"], np.array([0, 1, 3, 4]), np.array([2, 3, 5, 6]))
        ['a', '', '', 'd']
    """
    kept, free = names[:-1], -np.inf
    for number, (start, end) in enumerate(zip(starts[:-1], ends[:-1], strict=True)):
        if start < free or end > starts[-1]:
            kept[number] = ""
        else:
            free = end
    return [*kept, *names[-1:]]


def draw_curve(axes: Axes, curve: InteractionCurve, *, scale: Literal["linear", "log"] = "linear") -> None:
    """Draw E_O against α with its spread over images, and N², the number of all pairs.

    Args:
        axes: axes to draw on.
        curve: from `interaction_curve`.
        scale: scale of the vertical axis.

    Raises:
        ValueError: the curve contains no image, its shapes do not match, or `scale` is unknown.
    """
    if scale not in ("linear", "log"):
        raise ValueError(f'`scale` must be "linear" or "log", got {scale!r}.')
    images = curve.operations.shape[0]
    if images == 0:
        raise ValueError("`curve` must contain at least one image, got none.")
    counts = to_array("curve.operations", curve.operations, (images, len(curve.alphas)))
    order = sorted(range(len(curve.alphas)), key=lambda i: curve.alphas[i])
    alphas, counts = [curve.alphas[i] for i in order], counts[:, order]

    axes.axhline(curve.pairs, color="black", linestyle="--", linewidth=1, label=f"all pairs, N² = {curve.pairs:,}")
    if images > 1:
        low, high = np.quantile(counts, (0.25, 0.75), axis=0)
        spread: dict[str, Any] = {"color": COLOR, "linewidth": 0.0}
        axes.fill_between(alphas, counts.min(0), counts.max(0), alpha=0.15, label="all images", **spread)
        axes.fill_between(alphas, low, high, alpha=0.3, label="middle 50% of images", **spread)
    name = f"$E_O$, mean of {images:,} images" if images > 1 else "one image"
    axes.plot(alphas, counts.mean(0), color=COLOR, marker="o", markersize=4, label=name)
    _dress(axes, alphas, curve.pairs, scale)


def _dress(axes: Axes, alphas: list[float], pairs: int, scale: str) -> None:
    """Set scales, ticks and labels."""
    axes.set_yscale(scale)
    if scale == "linear":
        axes.set_ylim(0, 1.06 * pairs)
    if alphas[0] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(alphas))
    axes.xaxis.set_major_formatter(_ApartFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))

    def to_share(count: Any) -> Any:
        return count / pairs

    def to_count(share: Any) -> Any:
        return share * pairs

    shares = axes.secondary_yaxis("right", functions=(to_share, to_count))
    if scale == "log":
        for axis in (axes.yaxis, shares.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
    shares.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if scale == "linear" else None))
    shares.set_ylabel("fraction of all pairs", fontsize=9)
    axes.set_xlabel("α (fraction of all pairs that count as relevant)", fontsize=9)
    axes.set_ylabel("patch interactions", fontsize=9)
    axes.tick_params(which="both", labelsize=TICK_SIZE)
    shares.tick_params(which="both", labelsize=TICK_SIZE)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
