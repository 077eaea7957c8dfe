"""How many patch interactions windows leave, against α."""

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from vit_interactions.explain.interaction_curve import InteractionCurve
from vit_interactions.figures.values import to_array

COLOR = "#0072b2"


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
    axes.xaxis.set_major_locator(FixedLocator(alphas, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda alpha, _: f"{alpha:g}"))
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
    axes.tick_params(which="both", labelsize=8)
    shares.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
