"""What several commands share."""

from collections.abc import Sized
from pathlib import Path

import typer

from vit_interactions.images.bundled import bundled_photographs
from vit_interactions.images.listing import find_photographs, skipped_files
from vit_interactions.utilities.console import errors


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
