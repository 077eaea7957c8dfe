"""Observe the orientation of a grid of features over the image, and the part of the image that it covers.

One band of pixels changes at a time. A feature lies where the pixels are that change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BANDS = 6  # bands of rows, or columns, of pixels that change together
CLEAR = 0.15  # least slope of the pixels' positions along the features' for a clear orientation
STRAIGHT = 0.9  # least correlation of the two
APART = 0.5  # least spread of the pixels' positions, relative to the features', that is not by chance
# Bands turn a straight line into steps, which reduces its slope.
STEPS = 1 - 1 / BANDS**2
SHARP = 0.93  # least slope, corrected for the steps, of features that show the part of the image they cover


@dataclass(frozen=True)
class Orientation:
    """The orientation of features over the image: rows and columns are swapped first, then each axis is flipped.

    Attributes:
        transposed: whether rows of features are columns of the image.
        flips: whether rows, and columns, then run from the last to the first.

    Example:
        >>> Orientation(True, (False, True)).place(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        tensor([[4, 1],
                [5, 2],
                [6, 3]])
    """

    transposed: bool = False
    flips: tuple[bool, bool] = (False, False)

    def place(self, features: Tensor) -> Tensor:
        """Arrange features (..., rows, cols) in the order of the image."""
        placed = features.mT if self.transposed else features
        return placed.flip(self._flipped)

    def undo(self, placed: Tensor) -> Tensor:
        """Arrange the result of `place` in the order of the features."""
        features = placed.flip(self._flipped)
        return features.mT if self.transposed else features

    @property
    def _flipped(self) -> list[int]:
        return [axis - 2 for axis in (0, 1) if self.flips[axis]]


UPRIGHT = Orientation()


def _steps(count: int) -> Tensor:
    """Return the middles of `count` equal parts of the range from 0 to 1."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def centers(changes: tuple[Tensor, Tensor]) -> Tensor:
    """Find the center of the pixels that change each feature.

    Args:
        changes: how much each band of rows, and of columns, changes each feature: (BANDS, rows, cols) twice.

    Returns:
        (2, rows, cols) from 0 at the first pixel to 1 at the last; NaN for features that hardly change.
    """
    found = []
    for change in changes:
        total = change.sum(0)
        center = torch.einsum("b,brc->rc", _steps(BANDS).to(change), change) / total
        found.append(center.masked_fill(total <= 1e-3 * total.max(), torch.nan))
    return torch.stack(found)


def slopes(center: Tensor) -> tuple[Tensor, Tensor]:
    """Fit lines to the mean centers of rows and columns of features.

    Args:
        center: (2, rows, cols) from `centers`.

    Returns:
        Slopes and correlations (2, 2) of the rows and columns of pixels along the rows and columns of features. NaN
        along an axis of one feature.
    """
    slope, straight = torch.full((2, 2, 2), torch.nan, dtype=torch.float64)
    for pixels in (0, 1):
        for axis in (0, 1):
            line = center[pixels].double().nanmean(1 - axis)
            seen = line.isfinite()
            if seen.sum() < 2:
                continue
            place = _steps(len(line)).to(line)[seen]
            place, line = place - place.mean(), line[seen] - line[seen].mean()
            slope[pixels, axis] = (place @ line) / (place @ place)
            straight[pixels, axis] = torch.cosine_similarity(place, line, 0)
    return slope, straight


def orientation(center: Tensor) -> Orientation | None:
    """Read the orientation of features from the centers of their pixels; None if it is not clear.

    Example:
        >>> place = torch.linspace(0, 1, 4).expand(4, 4)
        >>> orientation(torch.stack((place, 1 - place.T)))
        Orientation(transposed=True, flips=(False, True))
    """
    slope, straight = slopes(center)
    steep = slope.abs().nan_to_num(0.0)
    found = Orientation(bool(steep.flip(1).trace() > steep.trace()))
    for pixels, axis in enumerate((1, 0) if found.transposed else (0, 1)):
        if center.shape[axis + 1] == 1:
            continue
        if not (steep[pixels, axis] >= CLEAR and straight[pixels, axis].abs() >= STRAIGHT):
            return None
        if steep[pixels, 1 - axis] > 0.5 * steep[pixels, axis]:
            return None
    down, across = (slope.flip(1) if found.transposed else slope).diagonal().tolist()
    return Orientation(found.transposed, (down < 0, across < 0))


def disordered(center: Tensor) -> bool:
    """Check whether features see distinct places but in no order of rows and columns, as in an image that is rolled.

    Example:
        >>> place = torch.linspace(0, 1, 6).expand(6, 6)
        >>> [disordered(torch.stack((place.T, columns))) for columns in (place, place.roll(2, 1))]
        [False, True]
    """
    slope, straight = slopes(center)
    spread = (slope / straight).abs()  # of the pixels' positions, relative to the features'
    return bool(((spread >= APART) & (straight.abs() < STRAIGHT)).any())


def uprightness(center: Tensor, placed: Orientation) -> tuple[list[float], list[float]]:
    """Return the slopes of placed features along and across the pixels, per axis; 0 along an axis of one feature."""
    slope = slopes(placed.place(center))[0].nan_to_num(0.0)
    return slope.diagonal().tolist(), slope.flip(1).diagonal().tolist()


def alignment(center: Tensor, placed: Orientation) -> float:
    """Correlate the positions of features and of their pixels, along the axis where they agree less."""
    center = placed.place(center)
    found = []
    for pixels in (0, 1):
        if center.shape[pixels + 1] > 1:
            seen = center[pixels].isfinite()
            place, line = seen.nonzero()[:, pixels].to(center), center[pixels][seen]
            # Not `corrcoef`, which warns of fewer than two centers. They correlate with nothing: 0.
            correlation = torch.cosine_similarity(place - place.mean(), line - line.mean(), 0)
            found.append(float(correlation.nan_to_num(0.0)))
    return min(found, default=1.0)


def covered(center: Tensor, placed: Orientation) -> Sequence[tuple[float, float]] | None:
    """Return the part of the image that features cover; None if their receptive fields are too large to know.

    Returns:
        (first, last) per axis, from 0 at the first pixel to 1 at the last; (0, 1) along an axis of one feature.
    """
    center = placed.place(center)
    slope, _ = slopes(center)
    found = []
    for pixels in (0, 1):
        if center.shape[pixels + 1] == 1:
            found.append((0.0, 1.0))
            continue
        steep = float(slope[pixels, pixels]) / STEPS
        if not steep >= SHARP:
            return None
        line = center[pixels].nanmean(1 - pixels)
        seen = line.isfinite()
        # Lines end half a step before the first center and after the last.
        middle = float(line[seen].mean()) - steep * (float(_steps(len(line))[seen].mean()) - 0.5)
        found.append((middle - steep / 2, middle + steep / 2))
    return found
