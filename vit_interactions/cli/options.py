"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from vit_interactions.functional.scores import Output


def given_path(text: str) -> Path:
    """Read a path; an empty one, as of a shell's variable that is not set, would mean the current folder.

    Example:
        >>> given_path("maps").name
        'maps'
    """
    if not text:
        raise typer.BadParameter("must be a path, got ''. Give . for the current folder.")
    return Path(text)


Images = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IMAGE...",
        parser=given_path,
        help="Images, or folders with images directly in them. Default: four images of scikit-image.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A model of timm, e.g. vit_base_patch16_224; hf:FOLDER or hf:NAME; torchvision:vit_b_16; "
        "open_clip:ViT-B-32/TAG. The default "
        "is small, knows Imagenette's ten classes, and comes with the package.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=given_path,
        help="Weights: a safetensors file, or a pickle of weights only. Else those that timm knows.",
    ),
]
Device = Annotated[
    str, typer.Option(help="Where to compute: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, mps, ...")
]
METHOD = "NAME[:OPTION=VALUE,...]"
Alpha = Annotated[float, typer.Option(help="Share of all patch pairs that count as relevant, in [0, 1].")]
Beta = Annotated[float, typer.Option(help="Share of patches dropped as indiscriminative, in [0, 1].")]
OutputKind = Annotated[
    Output | None,
    typer.Option(
        "--output",
        metavar="KIND",
        help="What the model gives: softmax (logits of classes of which an image has one), sigmoid (logits of classes "
        "each of which an image may have, or of one class), probabilities, or value (regression). Default: read from "
        "the model's configuration and its output.",
    ),
]
ResumeSame = Annotated[bool, typer.Option("--resume", help="Keep what the same settings have already made.")]


def check_folder_option(out: Path) -> None:
    """Raise ValueError where `--out` is a file."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"`--out` must be a folder, but {out} is a file.")


def parse_target(text: str) -> int | str:
    """Read a class, counted from 0, or "pred".

    Example:
        >>> parse_target("281"), parse_target("pred")
        (281, 'pred')
    """
    if text != "pred" and not (text.isdecimal() and len(text) < 10):
        raise ValueError(f'`--target` must be a class index >= 0 or "pred", got {text!r}.')
    return text if text == "pred" else int(text)
