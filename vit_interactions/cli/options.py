"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

from vit_interactions.utilities.choices import Output


def given_path(text: str) -> Path:
    """Parse a path; reject "", e.g. from an unset shell variable, which would mean the current folder.

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
        help="Image files, or folders of images (without subfolders). Default: four sample images of scikit-image.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A timm model, e.g. vit_base_patch16_224; hf:FOLDER or hf:NAME; torchvision:vit_b_16; "
        "open_clip:ViT-B-32/TAG. The default is a small model bundled with the package, trained on Imagenette.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=given_path,
        help="Weights: a safetensors file or a weights-only pickle. Default: the pretrained weights.",
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps, ...")]
METHOD = "NAME[:OPTION=VALUE,...]"
Alpha = Annotated[float, typer.Option(help="Fraction of all patch pairs that count as relevant, in [0, 1].")]
Beta = Annotated[float, typer.Option(help="Fraction of patches dropped as indiscriminative, in [0, 1].")]
Coverage = Annotated[
    float,
    typer.Option(
        "--window-coverage",
        metavar="Q",
        help="Fraction of a patch's relevant patches that its window contains at least, in [0, 1]. 1: the bounding box "
        "of all, as in the paper, which one distant patch opens; 0.9 leaves out the farthest.",
    ),
]
ExcludeSinks = Annotated[
    bool,
    typer.Option("--exclude-sinks", help="Leave attention sinks out of patch interactions and attention rollout."),
]
OutputKind = Annotated[
    Output | None,
    typer.Option(
        "--output",
        metavar="KIND",
        help="Model output: softmax (logits, one class per image), sigmoid (logits, several classes per image or one "
        "logit), probabilities, or value (regression). Default: detected from the configuration and the output.",
    ),
]
ResumeSame = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Resume an interrupted run: keep its results and compute the rest. The settings must be the same.",
    ),
]


def check_folder_option(out: Path) -> None:
    """Raise ValueError if `--out` is a file."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"`--out` must be a folder, got {out}, which is a file.")


def read_target(text: str) -> int | str:
    """Return a class index as an int, and any other text unchanged.

    Example:
        >>> read_target("281"), read_target("boxes")
        (281, 'boxes')
    """
    return int(text) if text.isdecimal() and len(text) < 10 else text


def parse_target(text: str) -> int | str:
    """Parse a class index or "pred".

    Example:
        >>> parse_target("281"), parse_target("pred")
        (281, 'pred')
    """
    target = read_target(text)
    if isinstance(target, str) and target != "pred":
        raise ValueError(f'`--target` must be a class index >= 0 or "pred", got {text!r}.')
    return target
