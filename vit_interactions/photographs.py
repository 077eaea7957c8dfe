"""Explain many photographs: each gets a folder of figures, raw maps and a manifest, whole or not at all.

A photograph that cannot be read or explained is reported and skipped; so is a method that goes wrong in one.
"""

import json
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explain import Explainer
from vit_interactions.explanation import OPEN_WINDOWS, Explanation, Settings, explain_photograph
from vit_interactions.figures import prepare
from vit_interactions.files import partial_path, sha256, write_json
from vit_interactions.images.reading import image_extensions, read_image
from vit_interactions.methods import find_method
from vit_interactions.wording import printable

PACKAGES = ("vit_interactions", "torch", "timm", "captum", "grad-cam", "numpy", "matplotlib", "pillow")
RESOLUTION = 120  # dots an inch
NAMED = 3  # skipped files of a folder that are named


@dataclass
class Report:
    """What became of each photograph.

    Attributes:
        done: photograph -> its folder.
        failed: photograph -> the reason why it has none.
        failed_methods: photograph -> method -> the reason why its folder lacks this method.
        refused: method -> the reason why it does not apply to the model.
        open_windows: photographs whose windows hold nearly all pairs, so that their fields tell little.
        zero_maps: method -> photographs in which it found nothing.
    """

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failed_methods: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    open_windows: list[str] = field(default_factory=list)
    zero_maps: dict[str, list[str]] = field(default_factory=dict)


def find_photographs(paths: Iterable[Path]) -> list[Path]:
    """List the given files, and in the place of a folder the images directly in it, by name.

    A file that cannot be read, such as a broken link, is left for the run to report, unless all are missing.

    Raises:
        ValueError: a folder without images, or nothing there at all.
    """
    extensions = image_extensions()
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in _files_in(path) if file.suffix.lower() in extensions]
            if not inside:
                raise ValueError(
                    f"`photos` must be pictures or folders with pictures directly in them, but {path} has none."
                )
            found += inside
        else:
            found.append(path)
    if not any(path.exists() for path in found):
        raise ValueError(f"`photos` must be pictures or folders, but there is nothing at {found[0]}.")
    return found


def skipped_files(paths: Iterable[Path]) -> str:
    """Word which files of folders `find_photographs` skips because they are not images; empty if none.

    Hidden files are not mentioned.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("cat.jpg", "data.csv", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     skipped_files([Path(folder)])
        'skipped 2 files that are not images: data.csv, notes.txt'
    """
    extensions = image_extensions()
    names = [
        file.name
        for folder in paths
        if folder.is_dir()
        for file in _files_in(folder)
        if file.suffix.lower() not in extensions and not file.name.startswith(".")
    ]
    if not names:
        return ""
    number = "1 file that is not an image" if len(names) == 1 else f"{len(names)} files that are not images"
    more = ", ..." if len(names) > NAMED else ""
    return printable(f"skipped {number}: {', '.join(names[:NAMED])}{more}")


def _files_in(folder: Path) -> list[Path]:
    """List what is directly in a folder by name, without its folders; broken links are files."""
    return sorted(path for path in folder.iterdir() if not path.is_dir())


def explain_photographs(
    model: nn.Module,
    photographs: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
) -> Iterator[Report]:
    """Explain photographs one by one, each into a folder of its own below `out`.

    Args:
        model: the model, in evaluation mode on its device.
        photographs: picture files.
        settings: what to explain them by.
        out: folder to write to; made if missing.
        resume: keep the folders that were made from the same photograph by the same settings, without a method
            that failed.

    Yields:
        The report so far, after each photograph. `out`/manifest.json holds the same.
    """
    report = Report()
    out.mkdir(parents=True, exist_ok=True)
    for path, name in zip(photographs, folder_names(photographs), strict=True):
        folder = out / name
        try:
            origin = {"photograph": str(path), "sha256": sha256(path), "settings": settings.as_json()}
            if folder.exists() and not is_ours(folder):
                raise ValueError(
                    f"{folder} exists and is no folder of explanations; move it, or choose another `out`."
                )
            if not (resume and _made_from(folder, origin)):
                explanation = explain_photograph(model, prepare(read_image(path), model), settings)
                _write_whole(folder, explanation, origin)
            report.done[str(path)] = name
            manifest = read_manifest(folder)
            report.refused.update(manifest.get("refused", {}))
            if manifest.get("failed"):
                report.failed_methods[str(path)] = manifest["failed"]
            if manifest.get("window_share", 0.0) > OPEN_WINDOWS:
                report.open_windows.append(str(path))
            for method in manifest.get("zero_maps", []):
                report.zero_maps.setdefault(method, []).append(str(path))
        except UnsupportedModelError:
            raise
        # A picture that cannot be read or explained is one picture less, not the end.
        except (OSError, ValueError, IndexError, RuntimeError, MemoryError) as error:
            report.failed[str(path)] = str(error) or type(error).__name__
        _write_manifest(out, settings, report)
        yield report


def folder_names(photographs: Sequence[Path]) -> list[str]:
    """Name a folder for each photograph after its file, apart also where files share a name.

    Example:
        >>> folder_names([Path("a/cat.jpg"), Path("b/cat.png"), Path("dog.jpg")])
        ['cat', 'cat-2', 'dog']
    """
    names = {"manifest.json": None}  # the run's own file; a dict is a set that keeps the order
    for photograph in photographs:
        stem = name = photograph.stem
        repeat = 2
        while name in names:
            name, repeat = f"{stem}-{repeat}", repeat + 1
        names[name] = None
    return list(names)[1:]


def describe(method: type[Explainer]) -> dict[str, Any]:
    """Return what a method says of itself."""
    return {
        "class": method.__name__,
        "class_specific": method.class_specific,
        "forwards": method.forwards,
        "backwards": method.backwards,
        "more_is_relevant": method.more_is_relevant,
        "source": method.source,
        "library": method.library,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an explanation depends on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a photograph's folder; empty where there is none or none that can be read."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest


def is_ours(folder: Path) -> bool:
    """Whether a folder may be replaced: it is empty, or holds an explanation of a photograph."""
    if not folder.is_dir():
        return False
    return not any(folder.iterdir()) or {"sha256", "settings"} <= read_manifest(folder).keys()


def _made_from(folder: Path, origin: dict[str, Any]) -> bool:
    manifest = read_manifest(folder)
    return all(manifest.get(key) == value for key, value in origin.items()) and not manifest.get("failed")


def _write_whole(folder: Path, explanation: Explanation, origin: dict[str, Any]) -> None:
    """Fill a folder beside the wanted one, and put it in its place when it is complete."""
    partial = partial_path(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name, figure in explanation.figures.items():
            figure.savefig(partial / f"{name}.png", dpi=RESOLUTION)
        for name, write in explanation.animations.items():
            write(partial / name)
        arrays: dict[str, Any] = explanation.arrays  # `savez` has options of its own beside the arrays
        np.savez_compressed(partial / "maps.npz", **arrays)
        manifest = {
            **origin,
            **explanation.facts,
            "arrays": {name: list(array.shape) for name, array in explanation.arrays.items()},
            "figures": sorted([*(f"{name}.png" for name in explanation.figures), *explanation.animations]),
            "methods": {
                name: describe(find_method(name))
                | ({"readout": explanation.readouts[name]} if name in explanation.readouts else {})
                for name in origin["settings"]["methods"]
            },
            "versions": versions(),
        }
        write_json(partial / "manifest.json", manifest)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(out: Path, settings: Settings, report: Report) -> None:
    # Folders of earlier runs into the same place stay listed, unless this run made them anew.
    mine = set(report.done.values())
    earlier = {path: name for path, name in read_manifest(out).get("done", {}).items() if name not in mine}
    done = {path: name for path, name in earlier.items() if (out / name).is_dir()} | report.done
    content = {"settings": settings.as_json(), **asdict(report), "done": done, "versions": versions()}
    write_json(out / "manifest.json", content)
