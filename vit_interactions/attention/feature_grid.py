"""Lay a grid over the image for methods that need no attention: that of the last features which lie over the image.

Where features lie is observed: a band of pixels that changes must change the same band of features most.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.borrow import borrowed
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.probe import Asked, ask, probe, remembered
from vit_interactions.attention.probing.outputs import main_output

CELLS = 14  # rows and columns where no features lie over the image
PREFIX = 16  # tokens beside those of the image, at most
TRIED = 12  # modules, from the last, whose output may be the features
BANDS = 3  # of rows, or columns, of pixels that change together
OFF = 0.15  # share of the image by which the place of what changes may err
AGREEMENT = 0.8  # least correlation of where tokens are and where the pixels are that change them
STRETCH = 1.5  # how much longer than wide a cell may be, or the other way round
Form = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True)
class FeatureGrid:
    """A module whose output lies over the image.

    Attributes:
        name: of the module.
        form: (batch, channels, rows, cols), (batch, rows, cols, channels), or (batch, tokens, channels), the last
            rows * cols of which are row by row.
        rows: rows of features.
        cols: columns of features.
    """

    name: str
    form: Form
    rows: int
    cols: int

    def read(self, output: Tensor) -> Tensor:
        """Bring the module's output to (batch, channels, rows, cols)."""
        if self.form == "tokens":
            patches = output[:, output.shape[1] - self.rows * self.cols :]
            return patches.transpose(1, 2).reshape(len(output), -1, self.rows, self.cols)
        return output.permute(0, 3, 1, 2) if self.form == "channels last" else output

    def write(self, grid: Tensor, output: Tensor) -> Tensor:
        """Put a grid in the place of what `read` took from an output."""
        if self.form == "tokens":
            prefix = output[:, : output.shape[1] - self.rows * self.cols]
            return torch.cat((prefix, grid.flatten(2).transpose(1, 2)), 1)
        return grid.permute(0, 2, 3, 1) if self.form == "channels last" else grid


_grids: weakref.WeakKeyDictionary[nn.Module, dict[Any, FeatureGrid | None]] = weakref.WeakKeyDictionary()


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
        asked = ask(model, inputs_or_size, additional_forward_args)
    found = remembered(_grids, asked, lambda: _find(asked))
    size = asked.shape[1:]
    return cells(size, *((CELLS, CELLS) if found is None else (found.rows, found.cols)))


def feature_grid(
    model: nn.Module, inputs: Tensor, additional_forward_args: Any = None, layer: str | None = None
) -> FeatureGrid:
    """Find the last features of a model that lie over the image, and that its output depends on.

    Args:
        model: any model.
        inputs: (batch, channels, height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.
        layer: name of the module whose output is meant.

    Raises:
        ValueError: no such layer.
        UnsupportedModelError: none, or a layer whose output does not lie over the image.
    """
    asked = ask(model, inputs, additional_forward_args)
    if layer is not None and layer not in dict(asked.model.named_modules()):
        raise ValueError(f"`layer` must name a module of {type(asked.model).__name__}, got {layer!r}.")
    found = _find(asked, layer) if layer else remembered(_grids, asked, lambda: _find(asked))
    if found is None:
        where = f"`{layer}` gives no" if layer else "no module gives"
        raise UnsupportedModelError(
            f"{where} features of {type(asked.model).__name__} that lie over the image as a grid and that its output "
            "depends on, so a CAM has no place. Name a `layer` with such an output, or use occlusion."
        )
    return found


def cells(image_size: tuple[int, int], rows: int, cols: int) -> TokenLayout:
    """Divide an image into cells of whole pixels, at most rows x cols; the last may reach beyond the image.

    Example:
        >>> cells((224, 225), 7, 7).extent, cells((8, 20), 14, 14).grid
        ((224, 231), (8, 10))
    """
    sides = [ceil(pixels / count) for pixels, count in zip(image_size, (rows, cols), strict=True)]
    rows, cols = (ceil(pixels / side) for pixels, side in zip(image_size, sides, strict=True))
    return TokenLayout(0, rows, cols, "other", (rows * sides[0], cols * sides[1]))


def _find(asked: Asked, layer: str | None = None) -> FeatureGrid | None:
    """Look from the last module for one whose output lies over the image."""
    with torch.inference_mode(False), torch.enable_grad():
        own = evaluation_copy(asked.model)
        leaf = asked.image.clone().requires_grad_()
        outputs, answer = _outputs(own, leaf.clone(), asked.arguments)
        tried = 0
        for name in [layer] if layer else reversed(outputs):
            if name not in outputs:
                continue
            output = outputs[name]
            for grid in _forms(name, output, (leaf.shape[-2], leaf.shape[-1])):
                tried += 1
                if tried > TRIED:
                    return None
                if _is_alive(grid, output, answer) and _lies_over(own, asked, grid):
                    return grid
    return None


def _outputs(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], only: str | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Run a copy of a model; return the outputs of modules that ran once, in order, and its own."""
    outputs: dict[str, Tensor] = {}
    again: set[str] = set()

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if name in outputs:
                again.add(name)
            elif isinstance(output, Tensor) and output.is_floating_point():
                outputs[name] = output

        return hook

    # A linear layer by itself makes queries, keys or values of features.
    parts = [
        (name, part)
        for name, part in model.named_modules()
        if name == only or (only is None and not isinstance(part, nn.Linear))
    ]
    handles = [part.register_forward_hook(keep(name)) for name, part in parts]
    try:
        with borrowed(model):
            answer = main_output(model(image, *arguments))
    finally:
        for handle in handles:
            handle.remove()
    return {name: output for name, output in outputs.items() if name not in again}, answer


def _forms(name: str, output: Tensor, image_size: tuple[int, int]) -> Iterator[FeatureGrid]:
    """List the ways in which an output may lie over one image, in more than one cell."""
    sizes: list[tuple[Form, int, int]] = []
    if output.ndim == 4 and len(output) == 1:
        sizes = [("channels first", *output.shape[2:]), ("channels last", *output.shape[1:3])]
    elif output.ndim == 3 and len(output) == 1:
        fits = (_sides(output.shape[1] - prefix, image_size) for prefix in range(PREFIX + 1))
        sizes = [("tokens", *next(filter(None, fits), (0, 0)))]
    for form, rows, cols in sizes:
        if rows * cols > 1 and cells(image_size, rows, cols).grid == (rows, cols):
            ratio = image_size[0] / rows / image_size[1] * cols
            if max(ratio, 1 / ratio) <= STRETCH:
                yield FeatureGrid(name, form, rows, cols)


def _sides(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
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


def _is_alive(grid: FeatureGrid, output: Tensor, answer: Tensor) -> bool:
    """Whether a model's answer depends on features."""
    if not (output.requires_grad and answer.requires_grad):
        return False
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(0)).to(answer)
    score = (answer * weights).sum()
    (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(grid.read(gradient).any())


def _lies_over(model: nn.Module, asked: Asked, grid: FeatureGrid) -> bool:
    """Whether the features that change most move along with the pixels that change.

    Far above the image, attention lets each feature depend on all pixels nearly alike. That says nothing against maps
    of features, which convolutions need in the image's order; tokens may be in any order.
    """
    shares = _shares(model, asked, grid)
    if grid.form == "tokens" and min(map(_agreement, shares, (0, 1))) < AGREEMENT:
        return False
    moves = [(_center(share[-1]) - _center(share[0])).tolist() for share in shares]
    return all(move[axis] >= max(0.0, abs(move[1 - axis])) - OFF for axis, move in enumerate(moves))


@torch.no_grad()
def _shares(model: nn.Module, asked: Asked, grid: FeatureGrid) -> list[Tensor]:
    """Tell how much of each feature's changes is due to each band of rows, and of columns: (BANDS, rows, cols)."""

    def features(image: Tensor) -> Tensor:
        outputs, _ = _outputs(model, image.clone(), asked.arguments, grid.name)
        return grid.read(outputs[grid.name])[0].double()

    image = asked.image
    other = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    before = features(image)
    shares = []
    for axis in (0, 1):
        bands = torch.arange(image.shape[axis + 2], device=image.device) * BANDS // image.shape[axis + 2]
        bands = bands.unsqueeze(1) if axis == 0 else bands
        changes = torch.stack(
            [(features(torch.where(bands == band, other, image)) - before).abs().sum(0) for band in range(BANDS)]
        )
        shares.append(changes / changes.sum(0).clamp_min(torch.finfo(changes.dtype).tiny))
    return shares


def _agreement(share: Tensor, axis: int) -> float:
    """Correlate the band that changes a feature with its row (axis 0) or column (axis 1); 1 where there is one only."""
    if share.shape[axis + 1] == 1:
        return 1.0
    place = torch.arange(share.shape[axis + 1]).to(share)
    place = (place.unsqueeze(1) if axis == 0 else place).expand(share.shape[1:])
    found = torch.einsum("b,brc->rc", torch.arange(len(share)).to(share), share)
    return float(torch.corrcoef(torch.stack([found.flatten(), place.flatten()]))[0, 1].nan_to_num(0.0))


def _center(mass: Tensor) -> Tensor:
    """Find the center of mass (rows, cols), (2,) from 0 at the first to 1 at the last; without mass, the middle.

    Example:
        >>> _center(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
        tensor([1.0000, 0.7500])
    """
    places = [torch.linspace(0, 1, length).to(mass) for length in mass.shape]
    return torch.stack([mass.sum(1) @ places[0], mass.sum(0) @ places[1]]).div(mass.sum()).nan_to_num(0.5)
