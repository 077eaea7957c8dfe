"""`vit-interactions curve`: the number of patch interactions as a function of alpha."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track
from rich.table import Table

from vit_interactions.cli.common import chosen_images, end_with_failures
from vit_interactions.cli.options import Checkpoint, Coverage, Device, ExcludeSinks, Images, Model, given_path
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.choices import DEFAULT_MODEL, PAPER_ALPHAS
from vit_interactions.utilities.console import errors, output
from vit_interactions.utilities.files import write_atomically
from vit_interactions.utilities.locks import locked_file
from vit_interactions.utilities.text import describe_error

if TYPE_CHECKING:
    from torch import Tensor

# The paper's values, and some in between, because the windows of many models grow fast there.
CURVE_ALPHAS = tuple(sorted({*PAPER_ALPHAS, 0.01, 0.035, 0.07}))


def curve(
    *,
    images: Images = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(parser=given_path, metavar="FILE", help="Output figure (PNG, PDF or SVG).")],
    checkpoint: Checkpoint = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help=f"Value in [0, 1]; repeatable. Default: {', '.join(f'{a:g}' for a in CURVE_ALPHAS)}."),
    ] = None,
    beta: Annotated[
        float,
        typer.Option(
            help="Fraction of patches dropped as indiscriminative. 0 counts the pairs inside windows, > 0 those inside "
            "responsive fields."
        ),
    ] = 0.0,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    device: Device = "auto",
) -> None:
    """Plot the number of patch interactions (E_O) against alpha, to choose alpha for a model."""
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"`--out` must end in .png, .pdf or .svg, got {out}.")
    for share in alpha or ():
        check_fraction("--alpha", share)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    paths = chosen_images(images)
    # They import torch, so they come after the checks of options.
    from vit_interactions.explain.interaction_curve import interaction_curve
    from vit_interactions.figures import curve_figure, prepare
    from vit_interactions.images.reading import read_image
    from vit_interactions.loading.models import load_model

    vit = load_model(model, checkpoint, check_device("--device", device))
    failed: dict[str, str] = {}

    def batches() -> "Generator[Tensor, None, None]":
        for path in track(paths, "reading attention", console=errors):
            try:
                yield prepare(read_image(path), vit).input.unsqueeze(0).to(next(vit.parameters()).device)
            except (OSError, ValueError, MemoryError) as error:
                failed[str(path)] = describe_error(error)

    # Close the progress bar before an error is printed.
    with locked_file(out), closing(batches()) as inputs:
        try:
            alphas = sorted(alpha or CURVE_ALPHAS)
            result = interaction_curve(vit, inputs, alphas, beta, window_coverage, exclude_sinks)
        except ValueError:
            if len(failed) == len(paths):
                end_with_failures(failed)
            raise
        table = Table("alpha", "E_O", "of all pairs")
        for share, operations in zip(result.alphas, result.expected.tolist(), strict=True):
            table.add_row(f"{share:g}", f"{operations:,.0f}", f"{operations / result.pairs:.1%}")
        output.print(table)
        figure, kind = curve_figure(result), out.suffix[1:].lower()
        write_atomically(out, lambda file: figure.savefig(file, dpi=150, format=kind))
    end_with_failures(failed)
