"""How many patch interactions windows leave, against α."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from vit_interactions.explain.interaction_curve import InteractionCurve
from vit_interactions.figures.values import Array, to_array

COLOR = "#0072b2"
TICK_SIZE = 8  # points
TICK_GAP = 4  # points between the labels of ticks


class _ApartFormatter(Formatter):
    """Labels as many ticks of a horizontal axis as there is room for when it is drawn, the last one always."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}"

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Label the ticks from left to right, but none that would touch another label."""
        names = [self(value) for value in values]
        axes: Any = self.axis
        dots = axes.axes.transData.transform([(value, axes.axes.get_ylim()[1]) for value in values])[:, 0]
        middles = dots * 72 / axes.get_figure(root=True).dpi
        halves = [_text_width(name) / 2 + TICK_GAP / 2 for name in names]
        return _keep_apart(names, middles - halves, middles + halves)


def _text_width(text: str) -> float:
    width: float = text_to_path.get_text_width_height_descent(text, FontProperties(size=TICK_SIZE), False)[0]
    return width


def _keep_apart(names: list[str], starts: Array, ends: Array) -> list[str]:
    """Blank the names, but for the last, that would reach into one kept before or into the last.

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
    """Draw E_O against α, the spread over images around it and N², all pairs, above it.

    Args:
        axes: where to draw.
        curve: from `interaction_curve`.
        scale: of the vertical axis.

    Raises:
        ValueError: a curve without images, whose parts disagree, or an unknown `scale`.
    """
    if scale not in ("linear", "log"):
        raise ValueError(f'`scale` must be "linear" or "log", but got {scale!r}.')
    images = curve.operations.shape[0]
    if images == 0:
        raise ValueError("`curve` must hold at least one image, but got none.")
    counts = to_array("curve.operations", curve.operations, (images, len(curve.alphas)))
    order = sorted(range(len(curve.alphas)), key=lambda i: curve.alphas[i])
    alphas, counts = [curve.alphas[i] for i in order], counts[:, order]

    axes.axhline(curve.pairs, color="black", linestyle="--", linewidth=1, label=f"all pairs, N² = {curve.pairs:,}")
    if images > 1:
        low, high = np.quantile(counts, (0.25, 0.75), axis=0)
        spread: dict[str, Any] = {"color": COLOR, "linewidth": 0.0}
        axes.fill_between(alphas, counts.min(0), counts.max(0), alpha=0.15, label="all images", **spread)
        axes.fill_between(alphas, low, high, alpha=0.3, label="middle half of the images", **spread)
    name = f"$E_O$, mean of {images:,} images" if images > 1 else "one image"
    axes.plot(alphas, counts.mean(0), color=COLOR, marker="o", markersize=4, label=name)
    _dress(axes, alphas, curve.pairs, scale)


def _dress(axes: Axes, alphas: list[float], pairs: int, scale: str) -> None:
    """Set the scales, ticks and labels."""
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
    shares.set_ylabel("share of all pairs", fontsize=9)
    axes.set_xlabel("α, share of all pairs that count as relevant", fontsize=9)
    axes.set_ylabel("patch interactions left", fontsize=9)
    axes.tick_params(which="both", labelsize=TICK_SIZE)
    shares.tick_params(which="both", labelsize=TICK_SIZE)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
