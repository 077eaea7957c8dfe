"""What several commands share."""

from pathlib import Path

import typer

from vit_interactions.images.bundled import bundled_images
from vit_interactions.images.listing import find_images, skipped_files
from vit_interactions.utilities.console import errors
from vit_interactions.utilities.text import printable


def chosen_images(paths: list[Path] | None) -> list[Path]:
    """List the images to explain, bundled ones by default, and report which files of their folders are skipped."""
    found = find_images(paths or bundled_images())
    skipped = skipped_files(paths or ())
    if skipped:
        errors.print(f"note: {skipped}", markup=False, soft_wrap=True)
    return found


def plural(number: int, noun: str) -> str:
    """Word a number of things.

    Example:
        >>> plural(1, "image"), plural(0, "image")
        ('1 image', '0 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def report_written(kind: str, written: int, images: int, out: Path) -> None:
    """Report how many results were written to a folder, and how many images failed."""
    failed = f"; {images - written} of {images} images failed" if written < images else ""
    errors.print(f"Wrote {plural(written, kind)} to {printable(str(out))}/{failed}", markup=False, soft_wrap=True)


def end_with_failures(failed: dict[str, str]) -> None:
    """Report each image that failed, as a whole or in a method; end with exit code 1 if any did."""
    for path, reason in failed.items():
        errors.print(
            f"failed: {reason if path in reason else f'{path}: {reason}'}",
            markup=False,
            soft_wrap=True,
            style="red",
        )
    if failed:
        raise typer.Exit(1)
