"""The command line: `vit-interactions explain`, `compare`, `explore`, `curve`, `models`, `methods`, and of training."""

import inspect
import sys
from collections.abc import Generator, Sized
from contextlib import closing
from pathlib import Path
from typing import Annotated

import timm
import typer
from rich.progress import track
from rich.table import Table
from timm.data.config import resolve_model_data_config
from torch import Tensor

from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.boundary import run_command
from vit_interactions.bundled import DEFAULT_MODEL, bundled_photographs
from vit_interactions.compare.commands import compare_command
from vit_interactions.console import errors, output, row
from vit_interactions.explain import Explainer
from vit_interactions.explain.interaction_curve import PAPER_ALPHAS, interaction_curve
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, patch_index
from vit_interactions.explanation import Settings
from vit_interactions.figures import curve_figure, prepare
from vit_interactions.files import sha256, write_whole
from vit_interactions.functional.checks import check_device, check_fraction
from vit_interactions.images.reading import read_image
from vit_interactions.inspection import inspect_command
from vit_interactions.loading import DIFFERENTIAL_ATTENTION, FAMILIES, load_model, nearest, weights_file
from vit_interactions.methods import all_methods, attention_refusal, check_class, default_methods, find_method
from vit_interactions.options import (
    Alpha,
    Beta,
    Checkpoint,
    Device,
    Model,
    OutputKind,
    Photos,
    ResumeSame,
    check_folder_option,
    given_path,
)
from vit_interactions.photographs import Report, explain_photographs, find_photographs, skipped_files
from vit_interactions.trained_windows import other_windows, trained_windows
from vit_interactions.training.commands import add_commands
from vit_interactions.training.windows_command import windows_command
from vit_interactions.utilities.locks import locked_file
from vit_interactions.wording import printable

# The paper's, and some between where many models turn from closed to open windows.
CURVE_ALPHAS = tuple(sorted({*PAPER_ALPHAS, 0.01, 0.035, 0.07}))

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
add_commands(app)
app.command("compare")(compare_command)
app.command("windows")(windows_command)
app.command("inspect")(inspect_command)


@app.callback()
def root() -> None:
    """Explain how the patches of a Vision Transformer interact."""


@app.command()
def explain(
    *,
    photos: Photos = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path,
        typer.Option(
            parser=given_path, metavar="FOLDER", help="Where to write; each picture gets a folder in it."
        ),
    ],
    checkpoint: Checkpoint = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A method of `vit-interactions methods`, captum's and pytorch-grad-cam's among them; repeat for more. "
            "Default: those of this library of few passes. Those of patch interactions come with three figures of U, "
            "windows and fields. Exit code 1 if one that is named here gives no map for an image; by default, methods "
            "that the model does not support are only noted.",
        ),
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW,COL",
            help="A patch to draw in patch_interactions.png; repeat for more. Default: the most informative, some far "
            "apart from it, the least informative.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="Class that class-specific methods explain, counted from 0, or pred: of the highest score.",
        ),
    ] = "pred",
    output: OutputKind = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    device: Device = "auto",
    resume: ResumeSame = False,
) -> None:
    """Draw the explanations of pictures, and write the raw maps and a manifest beside them."""
    chosen_methods = [find_method(name) for name in method or ()]
    patches = tuple(parse_patch(text) for text in patch or ())
    if patches and method and not any(issubclass(kind, InteractionExplainer) for kind in chosen_methods):
        raise ValueError(
            f"`--patch` must come with a method of patch interactions, but {', '.join(method)} has nothing to draw "
            "for one patch. Add e.g. --method interaction_uncertainty."
        )
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_folder_option(out)
    photographs = chosen_images(photos)
    chosen_class = parse_target(target)
    vit = load_model(model, checkpoint, check_device("--device", device), needs_attention=False)
    if isinstance(chosen_class, int):
        check_class("--target", chosen_class, vit, model)
    _, height, width = resolve_model_data_config(vit)["input_size"]  # type: ignore[no-untyped-call]
    methods = tuple(method or default_methods(vit))
    if not method and (reason := attention_refusal(vit)):
        errors.print(f"note: {reason}", markup=False, soft_wrap=True)
    for chosen in patches:
        patch_index(chosen, image_layout(vit, (height, width)))
    weights = weights_file(model, checkpoint)
    settings = Settings(
        model, sha256(weights) if weights else None, methods, patches, alpha, beta, chosen_class, output
    )
    steps = explain_photographs(vit, photographs, settings, out, resume=resume)
    report = Report()
    for report in track(steps, "explaining", total=len(photographs), console=errors):  # noqa: B007
        pass
    errors.print(f"explained {len(report.done)} of {count(photographs)} in {out}", markup=False, soft_wrap=True)
    if report.open_windows:
        errors.print(
            f"note: at alpha {alpha:g} the windows of {count(report.open_windows)} hold nearly all pairs of patches, "
            "so that field size and tendency tell little; `vit-interactions curve` shows which alpha "
            "suits this model",
            markup=False,
            soft_wrap=True,
        )
    refused = {name: f"{name}: {reason}" for name, reason in report.refused.items()}
    for name, reason in report.refused.items() if not method else ():
        errors.print(f"note: without {name}: {reason}", markup=False, soft_wrap=True)
    for difference in other_windows(model, trained_windows(model), alpha, beta):
        errors.print(f"note: {difference}", markup=False, soft_wrap=True)
    for name, pictures in report.zero_maps.items():
        errors.print(
            f"note: {name} found nothing in {count(pictures)}: the map is zero everywhere", soft_wrap=True
        )
    lacking = {
        path: "; ".join(f"{name}: {reason}" for name, reason in methods_failed.items())
        for path, methods_failed in report.failed_methods.items()
    }
    end_with_failures(report.failed | lacking | (refused if method else {}))


@app.command()
def explore(
    *,
    photos: Photos = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path,
        typer.Option(parser=given_path, metavar="FOLDER", help="Where to write; each picture gets a page in it."),
    ],
    checkpoint: Checkpoint = None,
    output: OutputKind = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    device: Device = "auto",
) -> None:
    """Make pages to explore: point at a patch, and its U, window, field, tendency and attention light up."""
    from vit_interactions.patch_explorer.pages import Pages, write_pages

    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_folder_option(out)
    photographs = chosen_images(photos)
    vit = load_model(model, checkpoint, check_device("--device", device))
    steps = write_pages(
        vit, photographs, out, name=model, named=checkpoint is None, alpha=alpha, beta=beta, output=output
    )
    pages = Pages()
    for pages in track(steps, "exploring", total=len(photographs), console=errors):  # noqa: B007
        pass
    errors.print(f"wrote {len(pages.done)} of {count(photographs)} as pages:", soft_wrap=True)
    for page in pages.done.values():
        size = page.stat().st_size / 1e6
        errors.print(f"{printable(str(page))} ({size:.1f} MB)", markup=False, soft_wrap=True)
    end_with_failures(pages.failed)


@app.command()
def curve(
    *,
    photos: Photos = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path, typer.Option(parser=given_path, metavar="FILE", help="The figure to write, a PNG, PDF or SVG file.")
    ],
    checkpoint: Checkpoint = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help=f"In [0, 1]; repeat for more. Default: {', '.join(f'{a:g}' for a in CURVE_ALPHAS)}."),
    ] = None,
    beta: Annotated[
        float, typer.Option(help="As of `explain`, where it is 0.2; 0 counts the windows, above it the fields.")
    ] = 0.0,
    device: Device = "auto",
) -> None:
    """Show how many patch interactions are left (E_O) against alpha, to choose alpha for a model."""
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"`--out` must end in .png, .pdf or .svg, but got {out}.")
    for share in alpha or ():
        check_fraction("--alpha", share)
    check_fraction("--beta", beta)
    photographs = chosen_images(photos)
    vit = load_model(model, checkpoint, check_device("--device", device))
    failed: dict[Path, str] = {}

    def batches() -> Generator[Tensor, None, None]:
        for path in track(photographs, "reading attention", console=errors):
            try:
                yield prepare(read_image(path), vit).input.unsqueeze(0).to(next(vit.parameters()).device)
            except (OSError, ValueError, MemoryError) as error:
                failed[path] = str(error) or type(error).__name__

    # Closed before an error is shown, which would otherwise stand above the bar's last line.
    with locked_file(out), closing(batches()) as inputs:
        try:
            result = interaction_curve(vit, inputs, sorted(alpha or CURVE_ALPHAS), beta)
        except ValueError:
            if len(failed) == len(photographs):
                end_with_failures({str(path): reason for path, reason in failed.items()})
            raise
        table = Table("alpha", "E_O", "of all pairs")
        for share, operations in zip(result.alphas, result.expected.tolist(), strict=True):
            table.add_row(f"{share:g}", f"{operations:,.0f}", f"{operations / result.pairs:.1%}")
        output.print(table)
        figure, kind = curve_figure(result), out.suffix[1:].lower()
        write_whole(out, lambda file: figure.savefig(file, dpi=150, format=kind))
    end_with_failures({str(path): reason for path, reason in failed.items()})


@app.command()
def models(
    name: Annotated[str, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = "*",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Only those that timm has weights for.")
    ] = False,
) -> None:
    """List the models of timm that can be explained, with the size of their input."""
    pattern = name if set(name) & set("*?[") else f"*{name}*"
    found = [
        m
        for family in FAMILIES
        for m in timm.list_models(
            pattern, module=family, pretrained=pretrained, exclude_filters=list(DIFFERENTIAL_ATTENTION)
        )
    ]
    if not found:
        names = [m for family in FAMILIES for m in timm.list_models(module=family)]
        refused = (
            " Others of timm have no attention from every patch to every patch."
            if timm.list_models(pattern)
            else ""
        )
        raise ValueError(f"no model that can be explained is named like {name!r}.{refused}{nearest(name, names)}")
    for model in found:
        known = timm.get_pretrained_cfg(model)
        row(model, *([f"{known.input_size[-2]}x{known.input_size[-1]}"] if known else []))


@app.command()
def methods() -> None:
    """List the methods, with what they cost and where they come from; those of captum and pytorch-grad-cam last."""
    for name, explainer in all_methods().items():
        library = "" if explainer.library == Explainer.library else f" ({explainer.library})"
        kind = "class-specific" if explainer.class_specific else "not class-specific"
        passes = f"{explainer.forwards} forward, {explainer.backwards} backward"
        order = "more" if explainer.more_is_relevant else "less"
        row(f"{name}{library}")
        row(f"    {explainer.quantity}; {order} = more relevant; {kind}; passes: {passes}")
        row(f"    {explainer.source}")


def chosen_images(paths: list[Path] | None) -> list[Path]:
    """List the images to explain, bundled ones by default, and report which files of their folders are skipped."""
    found = find_photographs(paths or bundled_photographs())
    skipped = skipped_files(paths or ())
    if skipped:
        errors.print(f"note: {skipped}", markup=False, soft_wrap=True)
    return found


def count(pictures: Sized) -> str:
    """Word how many pictures.

    Example:
        >>> count(["a"]), count([])
        ('1 picture', '0 pictures')
    """
    return f"{len(pictures)} picture{'' if len(pictures) == 1 else 's'}"


def end_with_failures(failed: dict[str, str]) -> None:
    """Report each picture that failed, as a whole or in a method; end with exit code 1 if any did."""
    for path, reason in failed.items():
        errors.print(
            f"failed: {reason if path in reason else f'{path}: {reason}'}",
            markup=False,
            soft_wrap=True,
            style="red",
        )
    if failed:
        raise typer.Exit(1)


def parse_target(text: str) -> int | str:
    """Read a class, counted from 0, or "pred".

    Example:
        >>> parse_target("281"), parse_target("pred")
        (281, 'pred')
    """
    if text != "pred" and not (text.isdecimal() and len(text) < 10):
        raise ValueError(f'`--target` must be a class index >= 0 or "pred", got {text!r}.')
    return text if text == "pred" else int(text)


def parse_patch(text: str) -> tuple[int, int]:
    """Read "ROW,COL".

    Example:
        >>> parse_patch("5,7")
        (5, 7)
    """
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"`--patch` must be ROW,COL, two whole numbers >= 0, but got {text!r}.")
    return int(parts[0]), int(parts[1])


def main() -> None:
    """Run the command line; however a command ends, in one line and an exit code."""
    sys.exit(run_command(app, is_resumable))


def is_resumable(command: str) -> bool:
    """Whether a command has --resume.

    Example:
        >>> is_resumable("explain"), is_resumable("curve"), is_resumable("")
        (True, False, False)
    """
    known = ((each.name, each.callback) for each in app.registered_commands)
    commands = {name or run.__name__: run for name, run in known if run is not None}
    return command in commands and "resume" in inspect.signature(commands[command]).parameters
