"""Find the pixels that feed each token, from the graph between an image and the query of the first attention call."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NONE, SEVERAL = -1, -2  # pixels that feed no token, or more than one
TOLERANCE = 0.2  # largest distance of a digit from a whole number for a pixel that feeds one token
DRAWS = 384  # numbers (channels times random directions) to estimate the center of a patch
GAP = 0.9  # fraction of a cell below which a patch leaves a gap to the next
OVERLAP = 0.3  # fraction of pixels that feed several tokens above which patches overlap
OFF = 0.6  # largest distance of a token's center from its cell's, in cells: stems are off by up to 0.5
DRIFT = 0.25  # cells by which the centers of the last patches may contradict a whole stride


@dataclass(frozen=True)
class PatchGrid:
    """The positions of an image's patches among the tokens and among the pixels.

    Attributes:
        prefix: tokens that no pixel feeds, in their order.
        order: the token of each patch, row by row from the top left.
        rows: rows of patches.
        cols: columns of patches.
        top: first row of pixels of the first row of patches; negative if the model pads the image.
        left: first column of pixels of the first column of patches.
        pitch: (height, width) in pixels from one patch to the next.
        slack: (height, width) in pixels by which a patch may be off its cell: 0 if patches touch, more if they overlap
            or leave gaps.
    """

    prefix: tuple[int, ...]
    order: tuple[int, ...]
    rows: int
    cols: int
    top: float
    left: float
    pitch: tuple[float, float]
    slack: tuple[float, float] = (0.0, 0.0)

    def extent(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) in pixels of the image that the patches cover, from its top left corner.

        Overlapping patches are placed side by side, each within `OFF` cells of its center.

        Raises:
            ValueError: patches that do not start at the corner of the image.

        Example:
            >>> PatchGrid((0,), (1, 2), 1, 2, 0.0, 0.0, (16.0, 16.0)).extent((20, 32))
            (16, 32)
        """
        down = self._side("height", self.top, self.pitch[0], self.slack[0], self.rows, image_size[0])
        across = self._side("width", self.left, self.pitch[1], self.slack[1], self.cols, image_size[1])
        return down, across

    def pixels(self, tokens: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Mark the pixels of the patches of some tokens, (height, width) bool.

        Example:
            >>> PatchGrid((0,), (1, 2), 1, 2, 0.0, 0.0, (1.0, 2.0)).pixels(torch.tensor([0, 2]), (1, 5)).int()
            tensor([[0, 0, 1, 1, 0]], dtype=torch.int32)
        """
        chosen = torch.isin(torch.tensor(self.order), tokens.cpu()).reshape(self.rows, self.cols)
        height, width = image_size
        row = ((torch.arange(height) - self.top) / self.pitch[0]).floor().long()
        col = ((torch.arange(width) - self.left) / self.pitch[1]).floor().long()
        inside = ((row >= 0) & (row < self.rows))[:, None] & ((col >= 0) & (col < self.cols))
        return chosen[row.clamp(0, self.rows - 1)][:, col.clamp(0, self.cols - 1)] & inside

    def _side(self, name: str, start: float, pitch: float, slack: float, count: int, length: int) -> int:
        whole = round(pitch) if abs(pitch - round(pitch)) < 1e-6 else pitch
        covered = round(whole * count)
        # Patches of fractions of a pixel come from a model that resizes the image; they cover all of it.
        resized = whole != round(whole)
        shifted = abs(start) > max(slack, 1.0 if resized else 0.0)
        if shifted or covered >= length + pitch or (resized and abs(covered - length) > 0.05 * length):
            raise ValueError(_moved(name, start, start + pitch * count, length, bool(slack)))
        return length if resized else covered


def _moved(side: str, start: float, end: float, length: int, wide: bool) -> str:
    far = ", or its stem looks so far that an image of this size has too few patches" if wide else ""
    return (
        f"its patches cover pixels {start:g} to {end:g} of the image's {side} of {length}, because the model crops, "
        f"pads or resizes the image itself{far}. Do that to the image first"
    )


def _nominal(pitch: float, count: int, length: int) -> float:
    """Return the likely stride of a stem with an estimated pitch, since padding moves border tokens inwards.

    Strides are products of small factors, mostly of 2.

    Example:
        >>> _nominal(31.2, 3, 96), _nominal(31.2, 4, 100), _nominal(2.5, 4, 11), _nominal(6.4, 8, 0)
        (32.0, 32, 2.5, 6.4)
    """
    if abs(pitch * count - length) < 0.3 * pitch:
        return length / count
    strides = range(math.ceil(0.93 * pitch), math.floor(1.07 * pitch) + 1)
    # A stride that contradicts the centers of the last patches is wrong: the image was resized by a fraction.
    near = [stride for stride in strides if abs(stride - pitch) * max(count - 3, 1) <= DRIFT * pitch]
    return max(near, key=lambda stride: (stride & -stride, -abs(stride - pitch)), default=pitch)


def find_patches(query: Tensor, image: Tensor) -> PatchGrid:
    """Find the patches of one image among the tokens that a model made of it.

    Args:
        query: (batch, heads, tokens, width), or value, of the first attention call, in the graph of the images.
        image: (batch, channels, height, width), a leaf that requires gradients; only the first is used.

    Raises:
        ValueError: patches that are not a regular grid of tokens, with the reason.
    """
    query = query[:1]
    pixels = pixel_tokens(query, image)
    several = (pixels == SEVERAL).double().mean()
    if not several:
        return _grid_of_pixels(pixels, query.shape[-2])
    apart = several <= OVERLAP
    centers = _pixel_centers(pixels, query.shape[-2]) if apart else token_centers(query, image)
    return _grid_of_centers(centers, pixels)


def pixel_tokens(query: Tensor, image: Tensor) -> Tensor:
    """Return the token that each pixel feeds.

    The gradient of a weighted sum of the tokens at a pixel is its token's weight times the gradient at weight 1. With
    the digits of the tokens' indices as weights, one backward pass per digit reads the index at all pixels at once.
    Further passes with random digits find pixels of several tokens.

    Returns:
        (height, width) int64 on the CPU: the index of the token, `NONE` or `SEVERAL`.

    Example:
        >>> image = torch.rand(1, 1, 2, 4, requires_grad=True)
        >>> tokens = torch.nn.functional.avg_pool2d(image, (2, 2)).flatten(2).transpose(1, 2)
        >>> pixel_tokens(tokens[:, None], image)
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1]])
    """
    tokens = query.shape[-2]
    precise = query.dtype in (torch.float32, torch.float64)
    base, checks = (256, 1) if precise else (2, 4)
    signs = _signs(query[:, :, :1])

    def pull(weights: Tensor) -> Tensor:
        cotangent = signs * weights.to(query.device, query.dtype)[:, None]
        return torch.autograd.grad(query, image, cotangent, retain_graph=True)[0][0].detach().double().cpu()

    plain = pull(torch.ones(tokens))
    size, channel = plain.abs().max(0, keepdim=True)
    plain = plain.gather(0, channel)[0]
    code = torch.zeros(plain.shape, dtype=torch.int64)
    several = torch.zeros(plain.shape, dtype=torch.bool)

    def read(digits: Tensor) -> Tensor:
        ratio = pull(digits).gather(0, channel)[0] / plain
        digit = ratio.nan_to_num().round().clamp(0, base - 1)
        several.logical_or_((ratio - digit).abs() > TOLERANCE)
        return digit.long()

    for place, digits in index_digits(tokens, base):
        code += read(digits) * place
    generator = torch.Generator().manual_seed(1)
    for _ in range(checks):
        digits = torch.randint(base, (tokens,), generator=generator)
        several |= read(digits) != digits[code.clamp(max=tokens - 1)]
    code[several | (code >= tokens)] = SEVERAL
    code[size[0] == 0] = NONE
    return code


def index_digits(count: int, base: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the digits of the indices below `count`, each with its place value, from the lowest place.

    Example:
        >>> list(index_digits(5, 4))
        [(1, tensor([0, 1, 2, 3, 0])), (4, tensor([0, 0, 0, 0, 1]))]
    """
    place = 1
    while place == 1 or place < count:
        yield place, torch.arange(count) // place % base
        place *= base


def token_centers(query: Tensor, image: Tensor) -> Tensor:
    """Estimate the center of mass of the pixels that feed each token, weighted by their squared influence.

    With J the derivative of a token by the pixels and r random signs, E[(J r √x)²] / E[(J r)²] = Σ x J² / Σ J². Each
    direction takes one pass for all tokens (the backward pass of the backward pass).

    Returns:
        (tokens, 2) float64 on the CPU: row and column of pixels; NaN for tokens that no pixel feeds.
    """
    cotangent = torch.zeros_like(query, requires_grad=True)
    (pulled,) = torch.autograd.grad(query, image, cotangent, create_graph=True)
    height, width = image.shape[-2:]
    down = (torch.arange(height, device=image.device) + 0.5).sqrt().to(image.dtype)[:, None].expand(height, width)
    across = (torch.arange(width, device=image.device) + 0.5).sqrt().to(image.dtype).expand(height, width)
    energy = torch.zeros(3, query.shape[-2], dtype=torch.float64)
    for draw in range(max(1, DRAWS // query[0, :, 0].numel())):
        signs = _signs(image[:1], draw)
        for part, scale in enumerate((torch.ones_like(down), down, across)):
            (pushed,) = torch.autograd.grad(pulled[:1], cotangent, signs * scale, retain_graph=True)
            energy[part] += pushed[0].detach().double().square().sum((0, 2)).cpu()
    return (energy[1:] / energy[0]).T


def _signs(like: Tensor, seed: int = 0) -> Tensor:
    """Draw random signs, which keep gradients from canceling, without advancing global generators."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(2, like.shape, generator=generator, device="cpu") * 2 - 1).to(like.device, like.dtype)


def _grid_of_pixels(pixels: Tensor, tokens: int) -> PatchGrid:
    """Read the grid from patches that share no pixels."""
    boxes = _boxes(pixels, tokens)
    fed = (boxes[2] >= 0).nonzero().flatten()
    found = len(fed)
    tops, row = torch.unique(boxes[0, fed], return_inverse=True)
    lefts, col = torch.unique(boxes[1, fed], return_inverse=True)
    rows, cols = len(tops), len(lefts)
    place = row * cols + col
    if 0 < len(fed) < rows * cols and (fed - place == fed[0] - place[0]).all():
        # Fill in the tokens of patches that the model blanked or dropped.
        fed = fed[0] - place[0] + torch.arange(rows * cols)
        place = fed - fed[0]
    if not len(fed) or len(fed) != rows * cols or len(place.unique()) != len(place) or fed.max() >= tokens:
        raise ValueError(f"{found} tokens are fed by pixels of their own, but they do not form rows and columns")
    top, down = _line(tops.tolist(), int(boxes[2].max()) + 1)
    left, across = _line(lefts.tolist(), int(boxes[3].max()) + 1)
    height, width = (boxes[2:] - boxes[:2] + 1)[:, boxes[2] >= 0].amax(1).tolist()
    gaps = height < GAP * down or width < GAP * across
    slack = (down - height, across - width) if gaps else (0.0, 0.0)
    order = tuple(fed[place.argsort()].tolist())
    return PatchGrid(_others(tokens, order), order, rows, cols, top, left, (down, across), slack)


def _boxes(pixels: Tensor, tokens: int) -> Tensor:
    """Return first row, first column, last row and last column of each token's pixels, (4, tokens); -1 if none.

    Raises:
        ValueError: pixels that do not fill their rectangle.
    """
    height, width = pixels.shape
    own = pixels >= 0
    token, at = pixels[own], own.nonzero().T
    low, high = torch.full((2, tokens), height + width), torch.full((2, tokens), -1)
    low.scatter_reduce_(1, token.expand(2, -1), at, "amin")
    high.scatter_reduce_(1, token.expand(2, -1), at, "amax")
    fed = (high[0] >= 0).nonzero().flatten()
    (top, left), (bottom, right) = low[:, fed], high[:, fed] + 1
    filled = token.bincount(minlength=tokens)[fed]
    # Nearest-neighbor resizing skips pixels in between.
    unread = F.pad((pixels == NONE).long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    filled += unread[bottom, right] - unread[top, right] - unread[bottom, left] + unread[top, left]
    holes = (filled != (bottom - top) * (right - left)).nonzero().flatten()
    if len(holes):
        raise ValueError(f"the pixels that feed token {int(fed[holes[0]])} are not a rectangle")
    return torch.cat((low, high))


def _line(starts: list[int], end: int) -> tuple[float, float]:
    """Fit the first edge and the pitch of intervals; padding may have cut the first and the last."""
    count = len(starts)
    if count == 1:
        return float(starts[0]), float(end - starts[0])
    inner = starts[1:] if count > 2 else starts
    pitch = (inner[-1] - inner[0]) / (len(inner) - 1)
    first = inner[0] - pitch * (count - len(inner))
    # Edges lie on whole pixels; those of a resized image are rounded.
    strays = any(abs(first + pitch * i - start) > 1 for i, start in enumerate(starts) if i)
    if first > starts[0] + 1 or strays or end > first + pitch * count + 1:
        raise ValueError("the patches are not equally large")
    return (float(starts[0]) if abs(first - starts[0]) < 1 else first), pitch


def _pixel_centers(pixels: Tensor, tokens: int) -> Tensor:
    """Return the center of the pixels that feed each token alone, (tokens, 2); NaN if there are none."""
    own = pixels >= 0
    places = own.nonzero().double() + 0.5
    total = torch.zeros(tokens, 2, dtype=torch.float64).index_add_(0, pixels[own], places)
    return total / pixels[own].bincount(minlength=tokens)[:, None]


def _grid_of_centers(centers: Tensor, pixels: Tensor) -> PatchGrid:
    """Read the grid from the centers of patches that share pixels.

    Raises:
        ValueError: a crop, or centers that are not in rows and columns.
    """
    fed = [index for index, center in enumerate(centers.tolist()) if center[0] == center[0]]
    found = centers[fed]
    for rows in range(1, len(fed) + 1):
        if len(fed) % rows:
            continue
        cols = len(fed) // rows
        order = _in_rows(found, rows, cols)
        if order is not None:
            grid = found[order].reshape(rows, cols, 2)
            lines = grid[..., 0].mean(1), grid[..., 1].mean(0)
            (top, down), (left, across) = (_fit(line, *_seen(pixels, i)) for i, line in enumerate(lines))
            tokens = tuple(fed[i] for i in order.tolist())
            slack = OFF * down, OFF * across
            return PatchGrid(_others(len(centers), tokens), tokens, rows, cols, top, left, (down, across), slack)
    raise ValueError(f"the {len(fed)} tokens that pixels feed have no centers in rows and columns")


def _in_rows(centers: Tensor, rows: int, cols: int) -> Tensor | None:
    """Order tokens by rows and columns; None if their centers are not in rows and columns."""
    by_row = centers[:, 0].argsort().reshape(rows, cols)
    order = torch.stack([row[centers[row, 1].argsort()] for row in by_row])
    grid = centers[order]
    down, across = grid[..., 0].mean(1), grid[..., 1].mean(0)
    gaps = [float((line[1:] - line[:-1]).min()) if len(line) > 1 else None for line in (down, across)]
    near = [gap if gap is not None else other for gap, other in (gaps, gaps[::-1])]
    strays = (grid[..., 0] - down[:, None]).abs().max(), (grid[..., 1] - across).abs().max()
    if any(gap is not None and stray > 0.5 * gap for stray, gap in zip(strays, near, strict=True)):
        return None
    return order.flatten()


def _seen(pixels: Tensor, axis: int) -> tuple[int, bool]:
    """Return the number of rows (axis 0) or columns of pixels, and whether the last ones feed a token.

    Raises:
        ValueError: a crop: the unused margin before the first is wider than the gaps between those that are used.
    """
    length, seen = pixels.shape[axis], (pixels != NONE).any(1 - axis).nonzero().flatten()
    start, end = int(seen[0]), int(seen[-1]) + 1
    if start >= max(seen.diff().tolist(), default=1):
        raise ValueError(_moved(("height", "width")[axis], start, end, length, wide=False))
    return length, end == length


def _fit(centers: Tensor, length: int, whole: bool) -> tuple[float, float]:
    """Fit the first edge and the pitch to the centers of rows or columns of patches in an image of a length.

    `whole` is whether patches see the image to its end. Centers at the border count less: padding moves them inwards.
    """
    if len(centers) == 1:
        return 0.0, 2 * centers.item()
    inner = centers[1:-1] if len(centers) > 3 else centers
    pitch = float((inner[-1] - inner[0]) / (len(inner) - 1))
    first = float(inner[0]) - pitch * (1 if len(centers) > 3 else 0)
    return first - pitch / 2, _nominal(pitch, len(centers), length if whole else 0)


def _others(tokens: int, fed: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(range(tokens)) - set(fed)))
