"""Lay a grid over the image for methods that need no attention: that of the last features which lie over the image.

Where features lie is observed: bands of pixels that change must change bands of features, in the same order or
mirrored, upright or turned.
"""

import weakref
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
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
    agreement,
    centers,
    covered,
    disordered,
    orientation,
    uprightness,
)
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probe import ProbeRequest, cached, probe, probe_request
from vit_interactions.attention.probing.outputs import main_output

CELLS = 14  # rows and columns where no features lie over the image
PREFIX = 16  # tokens beside those of the image, at most
TRIED = 12  # modules, from the last, whose output may be the features
OFF = 0.15  # by how much what changes may move across the pixels more than along them, as a share of the image
EDGE = 0.05  # share of the image by which the edge of what features cover may err
AGREEMENT = 0.8  # least correlation of where tokens are and where the pixels are that change them
STRETCH = 1.5  # how much longer than wide a cell may be, or the other way round
Form = Literal["channels first", "channels last", "tokens"]
Size = tuple[int, int]


@dataclass(frozen=True)
class FeatureGrid:
    """A module whose output lies over the image.

    Attributes:
        name: of the module.
        form: (batch, channels, *shape), (batch, *shape, channels), or (batch, tokens, channels), of which those from
            `start` on are row by row.
        shape: rows and columns of features, as the model has them.
        covers: (height, width) in pixels that they cover, from the top left corner of the image.
        start: tokens before them.
        orientation: how they lie over the image.
    """

    name: str
    form: Form
    shape: Size
    covers: Size
    start: int = 0
    orientation: Orientation = UPRIGHT

    @property
    def layout(self) -> TokenLayout:
        """The cells of the image that features belong to."""
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
        """Replace with a grid what `read` took from an output."""
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
    """Return the patches of a Vision Transformer, or else the cells of its last features over the image.

    For methods that need no attention, and what measures and draws their maps. Cells have no prefix tokens and
    readout "other"; where no features lie over the image, they are 14 x 14.

    Args:
        model: any model.
        inputs_or_size: as of `probe`.
        additional_forward_args: as of `probe`.

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
    found = cached(_grids, request, lambda: _find(request))
    return cells(request.shape[1:], CELLS, CELLS) if isinstance(found, str) else found.layout


def feature_grid(
    model: nn.Module,
    inputs_or_size: Tensor | tuple[int, int],
    additional_forward_args: Any = None,
    layer: str | None = None,
) -> FeatureGrid:
    """Find the last features of a model that lie over the image, and that its output depends on.

    Args:
        model: any model.
        inputs_or_size: as of `probe`.
        additional_forward_args: as of `probe`.
        layer: name of the module whose output is meant.

    Raises:
        ValueError: no such layer.
        UnsupportedModelError: none, or a layer whose output does not lie over the image.
    """
    request = probe_request(model, inputs_or_size, additional_forward_args)
    if layer is not None and layer not in dict(request.model.named_modules()):
        raise ValueError(f"`layer` must name a module of {type(request.model).__name__}, got {layer!r}.")
    best = cached(_grids, request, lambda: _find(request))
    found = _find(request, layer) if layer else best
    if isinstance(found, FeatureGrid):
        return found
    where = f"`{layer}` gives no" if layer else "no module gives"
    other = "use occlusion" if isinstance(best, str) else f"leave `layer` out for `{best.name}`, or use occlusion"
    raise UnsupportedModelError(
        f"{where} features of {type(request.model).__name__} that lie over the image as a grid and that its output "
        f"depends on, so a CAM has no place: {found}. {other[0].upper()}{other[1:]}."
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


def _find(request: ProbeRequest, layer: str | None = None) -> FeatureGrid | str:
    """Search, from the last module, for an output that lies over the image; return the reason if there is none."""
    # A linear layer by itself makes queries, keys or values of features.
    parts = (n for n, part in request.model.named_modules() if n == layer or not isinstance(part, nn.Linear))
    with differentiable(request.image) as leaf:
        own = evaluation_copy(request.model)
        outputs, answer = _outputs(own, leaf.clone(), request.arguments, set(parts))
        if layer and layer not in outputs:
            return f"`{layer}` gives no tensor, or does not run exactly once"
        covers = _read_part(answer, leaf)
        if isinstance(covers, str):
            return covers
        forms = {name: grids for name, output in outputs.items() if (grids := list(_forms(name, output, covers)))}
        if layer and layer not in forms:
            height, width = request.shape[1:]
            shape = tuple(outputs[layer].shape)
            return f"`{layer}` gives {shape}, which is no grid of several cells over {height} x {width} pixels"
        names = [layer] if layer else list(reversed(forms))[:TRIED]
        gradients = _gradients(answer, [outputs[name] for name in names])
    # How features lie is told by those before them, too: the last of each size, and the first convolution's.
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
    """Run a copy of a model; return the outputs of those of some modules that ran once, in order, and its own."""
    outputs: dict[str, Tensor] = {}
    again: set[str] = set()

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if name in outputs:
                again.add(name)
            elif isinstance(output, Tensor) and output.is_floating_point():
                outputs[name] = output

        return hook

    handles = [part.register_forward_hook(keep(n)) for n, part in model.named_modules() if n in names]
    try:
        with evaluation_mode(model):
            answer = main_output(model(image, *arguments))
    finally:
        for handle in handles:
            handle.remove()
    return {name: output for name, output in outputs.items() if name not in again}, answer


def _read_part(answer: Tensor, image: Tensor) -> Size | str:
    """Find the (height, width) of the pixels that an answer depends on, from the corner of the image on."""
    size = (image.shape[-2], image.shape[-1])
    (gradient,) = _gradients(answer, [image])
    if gradient is None or not gradient.any():
        return size  # where nothing is told by gradients
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


def _gradients(answer: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Compute the gradients of a random sum of an answer; None where it does not depend on a tensor."""
    places = [place for place, tensor in enumerate(tensors) if tensor.requires_grad and answer.requires_grad]
    found: list[Tensor | None] = [None] * len(tensors)
    if places:
        given = [tensors[place] for place in places]
        computed = torch.autograd.grad(answer, given, noise(answer), retain_graph=True, allow_unused=True)
        for place, gradient in zip(places, computed, strict=True):
            found[place] = gradient
    return found


def _forms(name: str, output: Tensor, covers: Size) -> Iterator[FeatureGrid]:
    """List the ways in which an output may lie over one image, in more than one cell, upright or turned."""
    if output.ndim == 4 and len(output) == 1:
        maps: list[tuple[Form, Sequence[int]]] = [
            ("channels first", output.shape[2:]),
            ("channels last", output.shape[1:3]),
        ]
        for form, (rows, cols) in maps:
            grid = FeatureGrid(name, form, (rows, cols), covers)
            if any(_fits(replace(grid, orientation=Orientation(turned))) for turned in (False, True)):
                yield grid
    elif output.ndim == 3 and len(output) == 1:
        seen = set()
        for turned in (False, True):
            for prefix in range(PREFIX + 1):
                shape = _sides(output.shape[1] - prefix, covers[::-1] if turned else covers)
                if shape is not None:
                    seen |= {(shape, prefix), (shape, 0)}
                    break
        for shape, start in sorted(seen):
            grid = FeatureGrid(name, "tokens", shape, covers, start)
            if any(_fits(replace(grid, orientation=Orientation(turned))) for turned in (False, True)):
                yield grid


def _fits(grid: FeatureGrid) -> bool:
    """Check whether there are several features, of nearly square parts of the image."""
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
    """Find the center of the pixels that change each feature, (2, rows, cols); see `centers`."""
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
    """Place the features of each module over the image, or say why they cannot be placed.

    Far above the image, attention lets each feature depend on all pixels nearly alike. Maps of features, which
    convolutions need in a fixed order, then lie as those before them; tokens may be in any order.
    """
    placed: dict[str, FeatureGrid | str] = {}
    known = None  # how the last features lie that tell
    astray = ""
    for name, grids in forms.items():
        clear = [replace(g, orientation=found) for g in grids if (found := orientation(center[g])) is not None]
        clear = [grid for grid in clear if _fits(grid)]
        if clear:
            best = max(clear, key=lambda grid: agreement(_of(center, grid), grid.orientation))
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
            placed[name] = f"the cells of `{name}`, {options[0].counts} over the image, are no whole pixels"
        else:
            placed[name] = max(whole, key=lambda grid: agreement(_of(center, grid), grid.orientation))
    return placed


def _out_of_order(name: str) -> str:
    return f"the cells of `{name}` lie in no order of rows and columns of the image"


def _beyond(grid: FeatureGrid, parts: Sequence[tuple[float, float]] | None) -> str:
    """Say that features cover another part of the image than all of it, if they do, by more than half a cell."""
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
    """Check whether the features that change move along with the pixels that change; constant ones lie nowhere."""
    if not center.isfinite().any():
        return False
    if grid.form == "tokens" and agreement(center, grid.orientation) < AGREEMENT:
        return False
    along, across = uprightness(center, grid.orientation)
    return all(a >= max(0.0, abs(b)) - OFF for a, b in zip(along, across, strict=True))
