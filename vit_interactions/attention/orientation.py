"""Observe how a grid of features lies over the image: upright, flipped or turned, and over which part of it.

Bands of pixels change one after the other. Where the pixels lie that change a feature tells where the feature lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BANDS = 6  # of rows, or columns, of pixels that change together
CLEAR = 0.15  # least slope of the pixels' place along the features' that tells the orientation
STRAIGHT = 0.9  # least correlation of the two
APART = 0.5  # least spread of the pixels' places, by that of the features', that is no chance
# Bands make steps of a straight line, and so its slope smaller.
STEPS = 1 - 1 / BANDS**2
SHARP = 0.93  # least slope, but for the steps, of features that tell which part of the image they cover


@dataclass(frozen=True)
class Orientation:
    """The orientation of features over the image: rows and columns are swapped first, then each axis is flipped.

    Attributes:
        transposed: whether rows of features are columns of the image.
        flips: whether rows, and columns, of the image then run from the last to the first.

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


def centers(changes: tuple[Tensor, Tensor]) -> Tensor:
    """Find the center of the pixels that change each feature.

    Args:
        changes: how much each band of rows, and of columns, changes each feature: (BANDS, rows, cols) twice.

    Returns:
        (2, rows, cols) from 0 at the first pixel to 1 at the last; NaN for features that hardly change.
    """
    places = (torch.arange(BANDS) + 0.5) / BANDS
    found = []
    for change in changes:
        total = change.sum(0)
        center = torch.einsum("b,brc->rc", places.to(change), change) / total
        found.append(center.masked_fill(total <= 1e-3 * total.max(), torch.nan))
    return torch.stack(found)


def slopes(center: Tensor) -> tuple[Tensor, Tensor]:
    """Fit lines to the mean centers of rows and columns of features.

    Args:
        center: (2, rows, cols) as of `centers`.

    Returns:
        Slopes and correlations (2, 2): of the rows, and columns, of pixels along the rows, and columns, of features.
        NaN along an axis of one feature.
    """
    slope, straight = torch.full((2, 2, 2), torch.nan, dtype=torch.float64)
    for pixels in (0, 1):
        for axis in (0, 1):
            line = center[pixels].double().nanmean(1 - axis)
            seen = line.isfinite()
            if seen.sum() < 2:
                continue
            place = ((torch.arange(len(line)) + 0.5) / len(line)).double()[seen]
            place, line = place - place.mean(), line[seen] - line[seen].mean()
            slope[pixels, axis] = (place @ line) / (place @ place)
            straight[pixels, axis] = torch.cosine_similarity(place, line, 0)
    return slope, straight


def orientation(center: Tensor) -> Orientation | None:
    """Read the orientation of features from the centers of their pixels; None where it is not clear.

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
    flips = tuple(bool(place < 0) for place in _along(slope, found.transposed))
    return Orientation(found.transposed, (flips[0], flips[1]))


def disordered(center: Tensor) -> bool:
    """Check whether features see distinct places in no order of rows and columns, such as an image that wraps around.

    Example:
        >>> place = torch.linspace(0, 1, 6).expand(6, 6)
        >>> [disordered(torch.stack((place.T, columns))) for columns in (place, place.roll(2, 1))]
        [False, True]
    """
    slope, straight = slopes(center)
    spread = (slope / straight).abs()  # of their pixels' places, by that of their own
    return bool(((spread >= APART) & (straight.abs() < STRAIGHT)).any())


def uprightness(center: Tensor, placed: Orientation) -> tuple[list[float], list[float]]:
    """Measure how features placed over the image move with the pixels, along and across: per axis of the image.

    Returns:
        Slopes along the axes, and across them; 0 along an axis of one feature.
    """
    slope, _ = slopes(placed.place(center))
    return _along(slope), _along(slope, transposed=True)


def agreement(center: Tensor, placed: Orientation) -> float:
    """Correlate the places of features with those of their pixels, along the axis where they agree less."""
    center = placed.place(center)
    found = []
    for pixels in (0, 1):
        length = center.shape[pixels + 1]
        place = torch.arange(length).to(center)
        place = (place.unsqueeze(1) if pixels == 0 else place).expand(center.shape[1:])
        seen = center[pixels].isfinite()
        if length > 1:
            # Fewer than two centers correlate with nothing: 0.
            place, line = place[seen] - place[seen].mean(), center[pixels][seen] - center[pixels][seen].mean()
            found.append(float(torch.cosine_similarity(place, line, 0).nan_to_num(0.0)))
    return min(found, default=1.0)


def covered(center: Tensor, placed: Orientation) -> Sequence[tuple[float, float]] | None:
    """Return the part of the image's height and width that features cover; None if they see too far to know.

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
        place = ((torch.arange(len(line)) + 0.5) / len(line)).to(line)
        seen = line.isfinite()
        # Lines end half a step before the first center and after the last.
        middle = float(line[seen].mean()) - steep * (float(place[seen].mean()) - 0.5)
        found.append((middle - steep / 2, middle + steep / 2))
    return found


def _along(slope: Tensor, transposed: bool = False) -> list[float]:
    """Take the slopes of each axis of pixels along one axis of features; 0 where there are none."""
    return [float(slope[pixels, 1 - pixels if transposed else pixels].nan_to_num(0.0)) for pixels in (0, 1)]
