"""`vit-interactions explore`: interactive pages of patch interactions."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from vit_interactions.cli.common import chosen_images, describe_page, end_with_failures, report_results
from vit_interactions.cli.options import (
    Alpha,
    Beta,
    Checkpoint,
    Coverage,
    Device,
    ExcludeSinks,
    Images,
    Model,
    OutputKind,
    check_folder_option,
    given_path,
)
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.choices import DEFAULT_MODEL
from vit_interactions.utilities.console import errors


def explore(
    *,
    images: Images = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path,
        typer.Option(parser=given_path, metavar="FOLDER", help="Output folder, with one page per image."),
    ],
    checkpoint: Checkpoint = None,
    output: OutputKind = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    device: Device = "auto",
) -> None:
    """Write interactive pages: point at a patch to see its U, window, field, tendency and attention."""
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    check_folder_option(out)
    paths = chosen_images(images)
    # They import torch, so they come after the checks of options.
    from vit_interactions.explorer.pages import Pages, write_pages
    from vit_interactions.loading.models import load_model

    vit = load_model(model, checkpoint, check_device("--device", device))
    steps = write_pages(
        vit,
        paths,
        out,
        name=model,
        named=checkpoint is None,
        alpha=alpha,
        beta=beta,
        coverage=window_coverage,
        output=output,
        exclude_sinks=exclude_sinks,
    )
    pages = Pages()
    for pages in track(steps, "exploring", total=len(paths), console=errors):  # noqa: B007
        pass
    report_results("page", len(pages.done), len(paths), out)
    for page in pages.done.values():
        errors.print(describe_page(page), soft_wrap=True)
    end_with_failures(pages.failed)
