"""`vit-interactions inspect`: the patches, readout and layers of a model, found by the probe."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from vit_interactions.cli.options import Checkpoint, Device, Model
from vit_interactions.utilities.checks import check_device, check_pair
from vit_interactions.utilities.choices import DEFAULT_MODEL
from vit_interactions.utilities.console import row
from vit_interactions.utilities.text import plural

if TYPE_CHECKING:
    from torch import nn

    from vit_interactions.attention.examine import Probe


def inspect_command(
    model: Model = DEFAULT_MODEL,
    checkpoint: Checkpoint = None,
    img_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Image size in pixels. Default: the model's."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Print the patches, the readout and the attention layers of a model.

    For a model without attention among all patches, print its feature grid and the methods that work.
    """
    if img_size:
        check_pair("--img-size", img_size)
    # They import torch, so they come after the checks of options.
    from timm.data.config import resolve_model_data_config

    from vit_interactions.loading.models import load_model

    place = check_device("--device", device)
    vit = load_model(model, checkpoint, place, needs_attention=False)
    size = img_size or resolve_model_data_config(vit)["input_size"][1:]  # type: ignore[no-untyped-call]
    for line in lines_about(vit, (size[0], size[1])):
        row(line)


def lines_about(model: "nn.Module", size: tuple[int, int]) -> Iterator[str]:
    """Yield the lines that describe any model, with or without attention among all patches.

    Example:
        >>> import timm
        >>> *_, cams, methods = lines_about(timm.create_model("test_resnet"), (160, 160))
        >>> cams, methods[:42]
        ('CAMs read `layer4`: 5 x 5 cells of 32 x 32 px', 'methods that work: attn_lrp, random_map, s')
    """
    from vit_interactions.attention.errors import UnsupportedModelError
    from vit_interactions.attention.feature_grid import feature_grid
    from vit_interactions.attention.probe import WITHOUT_ATTENTION, probe
    from vit_interactions.explain.registry import all_methods

    try:
        found = probe(model, size)
    except UnsupportedModelError as error:
        reason = str(error).removesuffix(f" {WITHOUT_ATTENTION}")
    else:
        yield from lines_of(found)
        return
    yield f"image: {size[0]} x {size[1]} px"
    yield f"methods that read attention do not work: {reason}"
    try:
        features = feature_grid(model, size)
        layout = features.layout
        height, width = layout.extent[0] // layout.rows, layout.extent[1] // layout.cols
        yield f"CAMs read `{features.name}`: {layout.rows} x {layout.cols} cells of {height} x {width} px"
    except UnsupportedModelError as error:
        yield f"CAMs do not work: {error}"
        features = None
    work = {name: method for name, method in all_methods().items() if not method.needs_attention}
    cams = {name for name, method in work.items() if "cam" in name or method.library == "pytorch-grad-cam"}
    yield f"methods that work: {', '.join(name for name in work if features or name not in cams)}"


def lines_of(found: "Probe") -> Iterator[str]:
    r"""Yield the lines that describe a probed model.

    Example:
        >>> import timm
        >>> from vit_interactions.attention.probe import probe
        >>> print(*lines_of(probe(timm.create_model("test_vit", depth=1), (160, 160))), sep="\n")
        image: 160 x 160 px
        10 x 10 patches of 16 x 16 px, 1 prefix token, read from: class token, 1 layer
        layer 0: blocks.0.attn, 2 heads
    """
    yield f"image: {found.image_size[0]} x {found.image_size[1]} px"
    yield str(found)
    if found.calls is None or found.structure is None:
        return
    for number, layer in enumerate(found.structure.layers):
        heads = sum(found.calls[i].shape[0] for i in layer)
        split = f" in {len(layer)} calls" if len(layer) > 1 else ""
        yield f"layer {number}: {found.calls[layer[0]].name}, {plural(heads, 'head')}{split}"
    if found.structure.pool is not None:
        yield f"pooling head: {found.calls[found.structure.pool].name}"
    for i in found.structure.ignored:
        yield f"ignored: {found.calls[i].name}, which is not on the path from the image to the output"
