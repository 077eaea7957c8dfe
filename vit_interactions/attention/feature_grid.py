"""Find the last grid of features that lies over the image, for methods that need no attention.

The position of features is observed: changed bands of pixels must change bands of features, in the same order or
flipped, upright or transposed.
"""

import contextlib
import weakref
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.graph import noise
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.orientation import (
    BANDS,
    UPRIGHT,
    Orientation,
    alignment,
    centers,
    covered,
    disordered,
    orientation,
    uprightness,
)
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probe import probe
from vit_interactions.attention.probing.outputs import main_output
from vit_interactions.attention.probing.request import ProbeRequest, cached, probe_request

CELLS = 14  # rows and columns if no features lie over the image
PREFIX = 16  # most tokens before those of the image
TRIED = 12  # last modules whose outputs are tried
OFF = 0.15  # by how much more features may move across the pixels than along them, as a fraction of the image
EDGE = 0.05  # tolerance for the edge of the part that features cover, as a fraction of the image
ALIGNMENT = 0.8  # least correlation of the positions of tokens and of the pixels that change them
STRETCH = 1.5  # largest aspect ratio of a cell
Form = Literal["channels first", "channels last", "tokens"]
Size = tuple[int, int]


@dataclass(frozen=True)
class FeatureGrid:
    """A module whose output lies over the image.

    Attributes:
        name: name of the module.
        form: (batch, channels, *shape), (batch, *shape, channels), or (batch, tokens, channels) with the features row
            by row from token `start`.
        shape: rows and columns of features in the model.
        covers: (height, width) in pixels that they cover, from the top left corner of the image.
        start: number of tokens before them.
        orientation: their orientation over the image.
    """

    name: str
    form: Form
    shape: Size
    covers: Size
    start: int = 0
    orientation: Orientation = UPRIGHT

    @property
    def layout(self) -> TokenLayout:
        """The cells of the image that the features belong to."""
        return cells(self.covers, *self.counts)

    @property
    def counts(self) -> Size:
        """Rows and columns of features over the image."""
        return self.shape[::-1] if self.orientation.transposed else self.shape

    def read(self, output: Tensor) -> Tensor:
        """Convert the module's output to (batch, channels, rows, cols), in the order of the image."""
        if self.form == "tokens":
            features = output[:, self._tokens].transpose(1, 2).reshape(len(output), -1, *self.shape)
        else:
            features = output.permute(0, 3, 1, 2) if self.form == "channels last" else output
        return self.orientation.place(features)

    def write(self, grid: Tensor, output: Tensor) -> Tensor:
        """Return an output whose features, as `read` returns them, are replaced by a grid."""
        features = self.orientation.undo(grid)
        if self.form == "tokens":
            tokens = features.flatten(2).transpose(1, 2)
            return torch.cat((output[:, : self.start], tokens, output[:, self._tokens.stop :]), 1)
        return features.permute(0, 2, 3, 1) if self.form == "channels last" else features

    @property
    def _tokens(self) -> slice:
        return slice(self.start, self.start + self.shape[0] * self.shape[1])


_grids: weakref.WeakKeyDictionary[nn.Module, dict[Any, FeatureGrid | str]] = weakref.WeakKeyDictionary()


def image_layout(
    model: nn.Module, inputs_or_size: Tensor | tuple[int, int], additional_forward_args: Any = None
) -> TokenLayout:
    """Return the patches of a Vision Transformer, or the cells of any other model's last features over the image.

    For methods that need no attention. Cells have no prefix tokens and readout "other"; if no features lie over the
    image, they are 14 x 14. See `probe` for the arguments.

    Raises:
        ValueError: images that the model does not take.
        UnsupportedModelError: a model that cannot be run.

    Example:
        >>> import timm
        >>> image_layout(timm.create_model("test_resnet"), (160, 160)).grid
        (5, 5)
    """
    try:
        return probe(model, inputs_or_size, additional_forward_args).layout
    except UnsupportedModelError:
        request = probe_request(model, inputs_or_size, additional_forward_args)
    found = _found(request)
    return cells(request.shape[1:], CELLS, CELLS) if isinstance(found, str) else found.layout


def feature_grid(
    model: nn.Module,
    inputs_or_size: Tensor | tuple[int, int],
    additional_forward_args: Any = None,
    layer: str | None = None,
) -> FeatureGrid:
    """Find the last features of a model that lie over the image, and that its output depends on.

    Takes the output of the module `layer` if given; see `probe` for the other arguments.

    Raises:
        ValueError: no such layer.
        UnsupportedModelError: no such features, or a layer whose output does not lie over the image.
    """
    request = probe_request(model, inputs_or_size, additional_forward_args)
    if layer is not None and layer not in dict(request.model.named_modules()):
        raise ValueError(f"`layer` must name a module of {type(request.model).__name__}, got {layer!r}.")
    found = _found(request, layer)
    if isinstance(found, FeatureGrid):
        return found
    best = _found(request)
    where = f"`{layer}` has no" if layer else f"no module of {type(request.model).__name__} has"
    other = "Use occlusion" if isinstance(best, str) else f"Leave `layer` out for `{best.name}`, or use occlusion"
    raise UnsupportedModelError(
        f"{where} features that form a grid over the image and affect the output, as a CAM needs: {found}. {other}."
    )


def cells(image_size: tuple[int, int], rows: int, cols: int) -> TokenLayout:
    """Divide an image into cells of whole pixels, at most rows x cols; the last may reach beyond the image.

    Example:
        >>> cells((224, 225), 7, 7).extent, cells((8, 20), 14, 14).grid
        ((224, 231), (8, 10))
    """
    sides = [ceil(pixels / count) for pixels, count in zip(image_size, (rows, cols), strict=True)]
    rows, cols = (ceil(pixels / side) for pixels, side in zip(image_size, sides, strict=True))
    return TokenLayout(0, rows, cols, "other", (rows * sides[0], cols * sides[1]))


def _found(request: ProbeRequest, layer: str | None = None) -> FeatureGrid | str:
    """Return the result of `_find`, cached."""
    return cached(_grids, replace(request, key=(request.key, layer)), lambda: _find(request, layer))


def _find(request: ProbeRequest, layer: str | None = None) -> FeatureGrid | str:
    """Search, from the last module, for an output that lies over the image; return the reason if none does."""
    # Linear layers are skipped: they compute queries, keys or values.
    parts = (n for n, part in request.model.named_modules() if n == layer or not isinstance(part, nn.Linear))
    with differentiable(request.image) as leaf:
        own = evaluation_copy(request.model)
        outputs, output = _outputs(own, leaf.clone(), request.arguments, set(parts))
        if layer and layer not in outputs:
            return f"`{layer}` gives no tensor, or does not run exactly once"
        covers = _read_part(output, leaf)
        if isinstance(covers, str):
            return covers
        forms = {name: grids for name, part in outputs.items() if (grids := list(_forms(name, part, covers)))}
        if layer and layer not in forms:
            height, width = request.shape[1:]
            shape = tuple(outputs[layer].shape)
            return f"`{layer}` gives {shape}, which is not a grid of several cells over {height} x {width} pixels"
        names = [layer] if layer else list(reversed(forms))[:TRIED]
        gradients = _gradients(output, [outputs[name] for name in names])
    # Earlier features show the orientation too: the last of each size, and those of the first convolution.
    last = {(grid.form, grid.shape, grid.start): name for name, grids in forms.items() for grid in grids}
    first = [name for name in forms if isinstance(own.get_submodule(name), nn.Conv2d)][:1]
    measured = {name: forms[name] for name in forms if name in (*names, *last.values(), *first)}
    placed = _placed(measured, _centers(own, request, measured, outputs), first)
    reasons = []
    for name, gradient in zip(names, gradients, strict=True):
        found = placed[name]
        if isinstance(found, FeatureGrid):
            if gradient is not None and found.read(gradient).any():
                return found
            found = f"the output does not depend on `{name}`"
        reasons.append(found)
    return next(iter(reasons), "no module gives a grid of several cells")


def _outputs(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], names: Collection[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a copy of a model; return the outputs of the named modules that ran once, in order, and its own output."""
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str, _: nn.Module, args: Any, output: Any) -> None:
        if name in outputs or (isinstance(output, Tensor) and output.is_floating_point()):
            outputs.setdefault(name, []).append(output)

    with contextlib.ExitStack() as stack:
        for name, part in model.named_modules():
            if name in names:
                stack.callback(part.register_forward_hook(partial(keep, name)).remove)
        with evaluation_mode(model):
            result = main_output(model(image, *arguments))
    return {name: found[0] for name, found in outputs.items() if len(found) == 1}, result


def _read_part(output: Tensor, image: Tensor) -> Size | str:
    """Find the (height, width) of the pixels that an output depends on, from the top left corner."""
    size = (image.shape[-2], image.shape[-1])
    (gradient,) = _gradients(output, [image])
    if gradient is None or not gradient.any():
        return size  # unknown: gradients show nothing
    read = gradient[0].ne(0).any(0)
    ends = []
    for axis, length in enumerate(size):
        lines = read.any(1 - axis).nonzero().flatten()
        first, last = int(lines[0]), int(lines[-1]) + 1
        if first > EDGE * length:
            return (
                f"the model crops the image itself, to pixels {first} to {last} of {length}. Crop the image first"
            )
        ends.append(length if last >= (1 - EDGE) * length else last)
    return ends[0], ends[1]


def _gradients(output: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Compute the gradients of a random sum of an output; None for tensors that it does not depend on."""
    given = [tensor for tensor in tensors if tensor.requires_grad and output.requires_grad]
    if not given:
        return [None] * len(tensors)
    computed = iter(torch.autograd.grad(output, given, noise(output), retain_graph=True, allow_unused=True))
    return [next(computed) if tensor.requires_grad else None for tensor in tensors]


def _forms(name: str, output: Tensor, covers: Size) -> Iterator[FeatureGrid]:
    """List the ways in which an output may lie over one image, in more than one cell, upright or transposed."""
    options: list[tuple[Form, Sequence[int], int]] = []
    if output.ndim == 4 and len(output) == 1:
        options = [("channels first", output.shape[2:], 0), ("channels last", output.shape[1:3], 0)]
    elif output.ndim == 3 and len(output) == 1:
        found = set()
        for size in (covers, covers[::-1]):
            sides = ((_sides(output.shape[1] - prefix, size), prefix) for prefix in range(PREFIX + 1))
            shape, prefix = next((pair for pair in sides if pair[0]), (None, 0))
            found |= {(shape, prefix), (shape, 0)} if shape else set()
        options = [("tokens", shape, start) for shape, start in sorted(found)]
    for form, (rows, cols), start in options:
        grid = FeatureGrid(name, form, (rows, cols), covers, start)
        if any(_fits(replace(grid, orientation=Orientation(transposed))) for transposed in (False, True)):
            yield grid


def _fits(grid: FeatureGrid) -> bool:
    """Check whether features divide the image into several, nearly square cells."""
    height, width = (side / count for side, count in zip(grid.covers, grid.counts, strict=True))
    return grid.shape[0] * grid.shape[1] > 1 and max(height / width, width / height) <= STRETCH


def _sides(tokens: int, image_size: Size) -> Size | None:
    """Divide tokens into rows and columns like the image's sides.

    Example:
        >>> _sides(6, (64, 96)), _sides(7, (64, 96))
        ((2, 3), None)
    """
    height, width = image_size
    rows = isqrt(max(0, tokens) * height // width)
    for side in (rows, rows + 1):
        if side and tokens == side * max(1, round(side * width / height)):
            return side, tokens // side
    return None


@torch.no_grad()
def _centers(
    model: nn.Module,
    request: ProbeRequest,
    forms: dict[str, list[FeatureGrid]],
    before: dict[str, Tensor],
) -> dict[FeatureGrid, Tensor]:
    """Find the center (2, rows, cols) of the pixels that change each feature; see `centers`."""
    grids = [grid for some in forms.values() for grid in some]
    changes: dict[FeatureGrid, tuple[list[Tensor], list[Tensor]]] = {grid: ([], []) for grid in grids}
    image = request.image
    other = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    for axis in (0, 1) if grids else ():
        length = grids[0].covers[axis]
        bands = torch.arange(image.shape[axis + 2], device=image.device) * BANDS // length
        bands = bands.unsqueeze(1) if axis == 0 else bands
        for band in range(BANDS):
            after, _ = _outputs(model, torch.where(bands == band, other, image), request.arguments, forms)
            for grid in grids:
                base = before[grid.name].detach()
                change = grid.read(after.get(grid.name, base)) - grid.read(base)
                changes[grid][axis].append(change[0].abs().sum(0, dtype=torch.float32).cpu().double())
    return {grid: centers((torch.stack(rows), torch.stack(cols))) for grid, (rows, cols) in changes.items()}


def _placed(
    forms: dict[str, list[FeatureGrid]], center: dict[FeatureGrid, Tensor], first: Collection[str]
) -> dict[str, FeatureGrid | str]:
    """Place the features of each module over the image, or return why they cannot be placed.

    In deep layers each feature depends on all pixels nearly alike. Feature maps are then taken to have the orientation
    of those before them, since convolutions need a fixed order; tokens may be in any order.
    """
    placed: dict[str, FeatureGrid | str] = {}
    known = None  # orientation of the last features that show it
    astray = ""

    def agrees(grid: FeatureGrid) -> float:
        return alignment(_of(center, grid), grid.orientation)

    for name, grids in forms.items():
        clear = [replace(g, orientation=found) for g in grids if (found := orientation(center[g])) is not None]
        clear = [grid for grid in clear if _fits(grid)]
        if clear:
            best = max(clear, key=agrees)
            known = best.orientation
            astray = astray or _beyond(best, covered(_of(center, best), known))
        elif name in first and any(grid.form == "channels first" and disordered(center[grid]) for grid in grids):
            astray = astray or _out_of_order(name)
        options = clear or [replace(grid, orientation=known) for grid in grids if known is not None]
        options = [grid for grid in options if _fits(grid) and _lies_over(grid, _of(center, grid))]
        whole = [grid for grid in options if grid.layout.grid == grid.counts]
        if not options:
            placed[name] = _out_of_order(name)
        elif astray:
            placed[name] = astray
        elif not whole:
            placed[name] = f"the cells of `{name}`, {options[0].counts} over the image, are not of whole pixels"
        else:
            placed[name] = max(whole, key=agrees)
    return placed


def _out_of_order(name: str) -> str:
    return f"the cells of `{name}` lie in no order of rows and columns of the image"


def _beyond(grid: FeatureGrid, parts: Sequence[tuple[float, float]] | None) -> str:
    """Return the reason against features that do not cover the whole image, by more than half a cell; "" if none."""
    for side, (first, last), count in zip(("height", "width"), parts or (), grid.counts, strict=False):
        if max(abs(first), abs(last - 1)) > EDGE + 0.5 / count:
            return (
                f"`{grid.name}` covers {first:.0%} to {last:.0%} of the image's {side}, because the model pads, crops "
                "or shifts the image itself. Do that to the image first"
            )
    return ""


def _of(center: dict[FeatureGrid, Tensor], grid: FeatureGrid) -> Tensor:
    return center[replace(grid, orientation=UPRIGHT)]


def _lies_over(grid: FeatureGrid, center: Tensor) -> bool:
    """Check whether the features that change move along with the changed pixels; constant ones lie nowhere."""
    if not center.isfinite().any():
        return False
    if grid.form == "tokens" and alignment(center, grid.orientation) < ALIGNMENT:
        return False
    along, across = uprightness(center, grid.orientation)
    return all(a >= max(0.0, abs(b)) - OFF for a, b in zip(along, across, strict=True))
