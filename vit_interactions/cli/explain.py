"""`vit-interactions explain`: figures, raw maps and a manifest for each image."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from vit_interactions.cli.common import chosen_images, end_with_failures, report_results
from vit_interactions.cli.options import (
    METHOD,
    Alpha,
    Beta,
    Checkpoint,
    Coverage,
    Device,
    ExcludeSinks,
    Images,
    Model,
    OutputKind,
    ResumeSame,
    check_folder_option,
    given_path,
    parse_target,
)
from vit_interactions.utilities.checks import check_device, check_fraction
from vit_interactions.utilities.choices import DEFAULT_MODEL
from vit_interactions.utilities.console import errors
from vit_interactions.utilities.files import sha256
from vit_interactions.utilities.text import plural


def explain(
    *,
    images: Images = None,
    model: Model = DEFAULT_MODEL,
    out: Annotated[
        Path,
        typer.Option(parser=given_path, metavar="FOLDER", help="Output folder, with one subfolder per image."),
    ],
    checkpoint: Checkpoint = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar=METHOD,
            help="A method from `vit-interactions methods`, with options if needed, as in "
            "attention_rollout:fusion=max,discard=0.9; repeatable. Default: the fast methods of this library. "
            "Patch-interaction methods also draw U, windows and fields. Exit code 1 if a method given here fails for "
            "an image; by default, unsupported methods are only noted.",
        ),
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW,COL",
            help="A patch to draw in patch_interactions.png and patch_similarity_patches.png; repeatable. Default: "
            "discriminative patches far apart from each other, and the least discriminative one.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="Target class for class-specific methods: an index from 0, or pred, the predicted class.",
        ),
    ] = "pred",
    pca: Annotated[
        int | None,
        typer.Option(
            metavar="LAYER",
            help="Also color the patches by the first three principal components of their features after this block: "
            "an index from 0, or -1 for the last.",
        ),
    ] = None,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth", help="Interpolate maps between patches in figures. Files keep a value per patch."
        ),
    ] = False,
    output: OutputKind = None,
    alpha: Alpha = 0.10,
    beta: Beta = 0.20,
    window_coverage: Coverage = 1.0,
    exclude_sinks: ExcludeSinks = False,
    device: Device = "auto",
    resume: ResumeSame = False,
) -> None:
    """Explain images: write figures, raw maps and a manifest for each."""
    patches = tuple(parse_patch(text) for text in patch or ())
    check_fraction("--alpha", alpha)
    check_fraction("--beta", beta)
    check_fraction("--window-coverage", window_coverage)
    check_folder_option(out)
    chosen_class = parse_target(target)
    paths = chosen_images(images)
    # They import torch, so they come after the checks of options.
    from timm.data.config import resolve_model_data_config

    from vit_interactions.attention.feature_grid import image_layout
    from vit_interactions.explain.configured import configure
    from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, patch_index
    from vit_interactions.explain.patch_similarity import PatchSimilarity
    from vit_interactions.explain.registry import check_class, default_methods, why_unsupported
    from vit_interactions.explain.settings import Settings
    from vit_interactions.gallery.run import ExplainResult, explain_images
    from vit_interactions.loading.models import load_model, weights_file
    from vit_interactions.models.trained_windows import other_windows, trained_windows

    methods = configure(method or ())
    of_patches = (InteractionExplainer, PatchSimilarity)
    if patches and method and not any(issubclass(each.kind, of_patches) for each in methods):
        raise ValueError(
            f"`--patch` must come with a patch-interaction method or patch_similarity, got {', '.join(method)}. "
            "Add e.g. --method interaction_uncertainty."
        )
    vit = load_model(model, checkpoint, check_device("--device", device), needs_attention=False)
    if isinstance(chosen_class, int):
        check_class("--target", chosen_class, vit, model)
    _, height, width = resolve_model_data_config(vit)["input_size"]  # type: ignore[no-untyped-call]
    methods = configure(methods or default_methods(vit), vit)
    if not method and (reason := why_unsupported(vit)):
        errors.print(f"note: {reason}", soft_wrap=True)
    for chosen in patches:
        patch_index(chosen, image_layout(vit, (height, width)))
    weights = weights_file(model, checkpoint)
    settings = Settings(
        model,
        sha256(weights) if weights else None,
        methods,
        patches,
        alpha,
        beta,
        chosen_class,
        output,
        pca,
        exclude_sinks,
        window_coverage,
        smooth,
    )
    steps = explain_images(vit, paths, settings, out, resume=resume)
    result = ExplainResult()
    for result in track(steps, "explaining", total=len(paths), console=errors):  # noqa: B007
        pass
    report_results("explanation", len(result.done), len(paths), out)
    if result.open_windows:
        errors.print(
            f"note: at alpha {alpha:g} the windows of {plural(len(result.open_windows), 'image')} cover almost all "
            "pairs of patches, so field size and tendency are uninformative; `vit-interactions curve` helps to choose "
            "alpha for this model",
            soft_wrap=True,
        )
    unsupported = {name: f"{name}: {reason}" for name, reason in result.unsupported.items()}
    for name, reason in result.unsupported.items() if not method else ():
        errors.print(f"note: {name} skipped: {reason}", soft_wrap=True)
    for difference in other_windows(model, trained_windows(model), alpha, beta, window_coverage, exclude_sinks):
        errors.print(f"note: {difference}", soft_wrap=True)
    for name, zero in result.zero_maps.items():
        errors.print(
            f"note: the map of {name} is zero everywhere for {plural(len(zero), 'image')}",
            soft_wrap=True,
        )
    lacking = {
        path: "; ".join(f"{name}: {reason}" for name, reason in methods_failed.items())
        for path, methods_failed in result.failed_methods.items()
    }
    end_with_failures(result.failed | lacking | (unsupported if method else {}))


def parse_patch(text: str) -> tuple[int, int]:
    """Parse "ROW,COL".

    Example:
        >>> parse_patch("5,7")
        (5, 7)
    """
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"`--patch` must be ROW,COL, two integers >= 0, got {text!r}.")
    return int(parts[0]), int(parts[1])
