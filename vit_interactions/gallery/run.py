"""Explain many images: each gets a folder of figures, raw maps and a manifest, whole or not at all.

An image that cannot be read or explained is reported and skipped; so is a method that goes wrong in one.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.explain.settings import OPEN_WINDOWS, Settings
from vit_interactions.figures import prepare
from vit_interactions.gallery.explanation import Explanation, explain_image
from vit_interactions.gallery.folder import MANIFEST, MAPS, is_of, is_ours, is_whole, read_manifest
from vit_interactions.gallery.replace import repair, replacing
from vit_interactions.images.prepared import preprocessing
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.checksum import architecture_checksum, checksum
from vit_interactions.utilities.files import checksums, sha256, write_json
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.names import Names, numbered, safe_name
from vit_interactions.utilities.versions import versions
from vit_interactions.utilities.writing import WriteError

RESOLUTION = 120  # dots an inch


@dataclass
class Report:
    """What became of each image.

    Attributes:
        done: image -> its folder.
        failed: image -> the reason why it has none.
        failed_methods: image -> method -> the reason why its folder lacks this method.
        refused: method -> the reason why it does not apply to the model.
        open_windows: images whose windows hold nearly all pairs, so that their fields tell little.
        zero_maps: method -> images in which it found nothing.
    """

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failed_methods: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    open_windows: list[str] = field(default_factory=list)
    zero_maps: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: Path, name: str, manifest: dict[str, Any]) -> None:
        """Take what the manifest of an image's folder says."""
        self.done[str(path)] = name
        self.refused.update(manifest.get("refused", {}))
        if manifest.get("failed"):
            self.failed_methods[str(path)] = manifest["failed"]
        if manifest.get("window_share", 0.0) > OPEN_WINDOWS:
            self.open_windows.append(str(path))
        for method in manifest.get("zero_maps", []):
            self.zero_maps.setdefault(method, []).append(str(path))


def explain_images(
    model: nn.Module,
    images: Sequence[Path],
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
) -> Iterator[Report]:
    """Explain images one by one, each into a folder of its own below `out`.

    Args:
        model: the model, in evaluation mode on its device.
        images: image files.
        settings: what to explain them by.
        out: folder to write to; made if missing.
        resume: keep the folders that were made from the same image by the same settings and model, if they are
            whole and no method failed.

    Yields:
        The report so far, after each image. `out`/manifest.json holds the same. A folder of another image of
        the same name is kept; the new one gets a number.

    Raises:
        BlockingIOError: another run is writing to `out`.
        WriteError: the disk is full, or `out` cannot be written to.
        UnsupportedModelError: the model cannot be explained.
    """
    with locked(out):
        repair(out)
        names = Names((path.name for path in out.iterdir()), reserved=[MANIFEST])
        report, facts = Report(), describe_model(model)
        for path in images:
            try:
                digest = sha256(path, "image")
                origin = {"sha256": digest, "settings": settings.as_json(), "model": facts}
                name = names.choose(numbered(safe_name(path.stem)), partial(_is_own, out, path, digest))
                if not (resume and _made_from(out / name, origin)):
                    explanation = explain_image(model, prepare(read_image(path), model), settings)
                    _write_whole(out / name, explanation, {"image": os.path.abspath(path), **origin})
                names.use(name)
                report.add(path, name, read_manifest(out / name))
            except (UnsupportedModelError, WriteError):
                raise
            # An image that cannot be read or explained is one image less, not the end.
            except (OSError, ValueError, IndexError, RuntimeError, MemoryError) as error:
                report.failed[str(path)] = str(error) or type(error).__name__
            _write_manifest(out, settings, report)
            yield report


def _is_own(out: Path, image: Path, digest: str, name: str) -> bool:
    """Return whether a folder in `out` holds the results of this image.

    Raises:
        ValueError: it holds something else than results.
    """
    if not is_ours(out / name):
        raise ValueError(
            f"{out / name} exists and is no folder of explanations; move it, or choose another `out`."
        )
    return is_of(out / name, image, digest)


def describe_model(model: nn.Module) -> dict[str, str]:
    """Return what the results depend on beside the settings: weights, options and preprocessing of the model."""
    return {
        "weights": checksum(model),
        "options": architecture_checksum(model),
        "preprocessing": str(preprocessing(model)),
    }


def _made_from(folder: Path, origin: dict[str, Any]) -> bool:
    """Return whether a folder holds whole results of the same origin, without a method that failed."""
    manifest = read_manifest(folder)
    same = all(manifest.get(key) == value for key, value in origin.items())
    return same and not manifest.get("failed") and is_whole(folder)


def _write_whole(folder: Path, explanation: Explanation, origin: dict[str, Any]) -> None:
    """Write the folder of an image, whole or not at all."""
    figures = {
        f"{name}.png": partial(figure.savefig, dpi=RESOLUTION) for name, figure in explanation.figures.items()
    }
    writers: dict[str, Callable[[Path], object]] = {**figures, **explanation.animations}
    manifest = {
        **origin,
        **explanation.facts,
        "arrays": {name: list(array.shape) for name, array in explanation.arrays.items()},
        "figures": sorted(writers),
        "versions": versions(),
    }
    with replacing(folder) as new:
        write_json(new / MANIFEST, manifest)  # first, to tell whose folder this is; checksums come at the end
        for name, write in writers.items():
            write(new / name)
        arrays: dict[str, Any] = explanation.arrays  # `savez` has options of its own beside the arrays
        np.savez_compressed(new / MAPS, **arrays)
        write_json(new / MANIFEST, {**manifest, "files": checksums(new, [MAPS, *sorted(writers)])})


def _write_manifest(out: Path, settings: Settings, report: Report) -> None:
    # Folders of earlier runs into the same place stay listed, unless this run made them anew.
    mine = set(report.done.values())
    listed = read_manifest(out).get("done")
    known = listed.items() if isinstance(listed, dict) else ()
    earlier = {path: name for path, name in known if str(name) not in mine and (out / str(name)).is_dir()}
    done = earlier | {os.path.abspath(path): name for path, name in report.done.items()}
    content = {"settings": settings.as_json(), **asdict(report), "done": done, "versions": versions()}
    write_json(out / MANIFEST, content)
