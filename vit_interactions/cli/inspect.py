"""`vit-interactions inspect`: the patches, readout and layers of a model, found by the probe."""

from collections.abc import Iterator
from typing import Annotated

import typer
from timm.data.config import resolve_model_data_config

from vit_interactions.attention.examine import Probe
from vit_interactions.attention.probe import probe
from vit_interactions.cli.options import Checkpoint, Device, Model
from vit_interactions.images.bundled import DEFAULT_MODEL
from vit_interactions.loading.models import load_model
from vit_interactions.utilities.checks import check_device, check_pair
from vit_interactions.utilities.console import row
from vit_interactions.utilities.text import plural


def inspect_command(
    model: Model = DEFAULT_MODEL,
    checkpoint: Checkpoint = None,
    img_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Image size in pixels. Default: the model's."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Print the patches, the readout and the attention layers of a model."""
    check_device("--device", device)
    if img_size:
        check_pair("--img-size", img_size)
    vit = load_model(model, checkpoint, device).eval()
    size = img_size or resolve_model_data_config(vit)["input_size"][1:]  # type: ignore[no-untyped-call]
    for line in lines_of(probe(vit, tuple(size))):
        row(line)


def lines_of(found: Probe) -> Iterator[str]:
    r"""Yield the lines that describe a probed model.

    Example:
        >>> import timm
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
