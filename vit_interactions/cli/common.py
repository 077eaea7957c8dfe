"""Helpers for several commands."""

from pathlib import Path

import typer

from vit_interactions.utilities.console import errors
from vit_interactions.utilities.text import plural, printable


def chosen_images(paths: list[Path] | None) -> list[Path]:
    """Return the image files to explain, by default the bundled ones; report files in folders that are skipped."""
    # They import Pillow and numpy.
    from vit_interactions.images.bundled import bundled_images
    from vit_interactions.images.listing import find_images, skipped_files

    found = find_images(paths or bundled_images())
    skipped = skipped_files(paths or ())
    if skipped:
        errors.print(f"note: {skipped}", soft_wrap=True)
    return found


def report_results(kind: str, count: int, images: int, out: Path) -> None:
    """Print how many results were written to a folder and how many images failed."""
    failed = f"; {images - count} of {images} images failed" if count < images else ""
    errors.print(f"Wrote {plural(count, kind)} to {printable(str(out))}/{failed}", soft_wrap=True)


def describe_page(page: Path) -> str:
    """Return the path and the size of a page, to print."""
    return f"{printable(str(page))} ({page.stat().st_size / 1e6:.1f} MB)"


def end_with_failures(failed: dict[str, str]) -> None:
    """Print each failure; exit with code 1 if there is one."""
    for path, reason in failed.items():
        errors.print(
            f"failed: {reason if path in reason else f'{path}: {reason}'}",
            soft_wrap=True,
            style="red",
        )
    if failed:
        raise typer.Exit(1)
