"""Explain many images: write one folder with figures, raw maps and a manifest per image, atomically.

Images that cannot be read or explained are reported and skipped, and so are methods that fail for an image.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vit_interactions.explain.settings import OPEN_WINDOWS, Settings
from vit_interactions.figures import prepare
from vit_interactions.gallery.explanation import Explanation, explain_image
from vit_interactions.gallery.folder import MANIFEST, MAPS, belongs_to, is_complete, is_results, read_manifest
from vit_interactions.gallery.replace import repair, replacing
from vit_interactions.images.failures import recorded_failure
from vit_interactions.images.prepared import preprocessing
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.checksum import architecture_checksum, checksum
from vit_interactions.utilities.files import checksums, sha256
from vit_interactions.utilities.json_files import write_json
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.names import Names, numbered_names, safe_name
from vit_interactions.utilities.versions import versions

RESOLUTION = 120  # dots per inch


@dataclass
class ExplainResult:
    """The images that were explained and those that failed.

    Attributes:
        done: image -> its folder.
        failed: image -> reason.
        failed_methods: image -> method -> reason.
        unsupported: method -> reason why it does not support the model.
        open_windows: images whose windows cover almost all pairs, so that their fields are uninformative.
        zero_maps: method -> images whose map is zero everywhere.
    """

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failed_methods: dict[str, dict[str, str]] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    open_windows: list[str] = field(default_factory=list)
    zero_maps: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: Path, name: str, manifest: dict[str, Any]) -> None:
        """Add an image and the manifest of its folder."""
        self.done[str(path)] = name
        self.unsupported.update(manifest.get("unsupported", {}))
        if manifest.get("failed"):
            self.failed_methods[str(path)] = manifest["failed"]
        if manifest.get("window_fraction", 0.0) > OPEN_WINDOWS:
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
) -> Iterator[ExplainResult]:
    """Explain images one at a time, each to its own folder in `out`.

    Args:
        model: the model, in evaluation mode on its device.
        images: image files.
        settings: methods and their options.
        out: output folder; created if missing.
        resume: keep complete folders of the same image, settings and model in which no method failed.

    Yields:
        The result so far, after each image; `out`/manifest.json contains the same. If another image of the same name
        has a folder, it is kept, and the new folder gets a number.

    Raises:
        BlockingIOError: another run is writing to `out`.
        WriteError: the disk is full, or `out` is not writable.
        UnsupportedModelError: the model is not supported.
    """
    with locked(out):
        repair(out)
        names = Names((path.name for path in out.iterdir()), reserved=[MANIFEST])
        result, facts = ExplainResult(), describe_model(model)
        for path in images:
            with recorded_failure(result.failed, path):
                digest = sha256(path, "image")
                origin = {"sha256": digest, "settings": settings.as_json(), "model": facts}
                name = names.choose(numbered_names(safe_name(path.stem)), partial(_is_own, out, path, digest))
                if not (resume and _made_from(out / name, origin)):
                    explanation = explain_image(model, prepare(read_image(path), model), settings)
                    _write_folder(out / name, explanation, {"image": os.path.abspath(path), **origin})
                names.use(name)
                result.add(path, name, read_manifest(out / name))
            _write_manifest(out, settings, result)
            yield result


def _is_own(out: Path, image: Path, digest: str, name: str) -> bool:
    """Return whether a folder in `out` contains the results of this image.

    Raises:
        ValueError: it is not a results folder.
    """
    if not is_results(out / name):
        raise ValueError(
            f"{out / name} exists and is not a folder of explanations. Move it, or choose another `out`."
        )
    return belongs_to(out / name, image, digest)


def describe_model(model: nn.Module) -> dict[str, str]:
    """Return checksums of what the results depend on besides the settings: weights, options and preprocessing."""
    return {
        "weights": checksum(model),
        "options": architecture_checksum(model),
        "preprocessing": str(preprocessing(model)),
    }


def _made_from(folder: Path, origin: dict[str, Any]) -> bool:
    """Return whether a folder contains complete results of the same origin in which no method failed."""
    manifest = read_manifest(folder)
    same = all(manifest.get(key) == value for key, value in origin.items())
    return same and not manifest.get("failed") and is_complete(folder)


def _write_folder(folder: Path, explanation: Explanation, origin: dict[str, Any]) -> None:
    """Write the folder of an image atomically."""
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
        write_json(new / MANIFEST, manifest)  # first, so that `repair` recognizes the folder; checksums come last
        for name, write in writers.items():
            write(new / name)
        arrays: dict[str, Any] = explanation.arrays  # for mypy: `savez` has other keyword arguments too
        np.savez_compressed(new / MAPS, **arrays)
        write_json(new / MANIFEST, {**manifest, "files": checksums(new, [MAPS, *sorted(writers)])})


def _write_manifest(out: Path, settings: Settings, result: ExplainResult) -> None:
    # Folders of earlier runs stay listed, unless this run has replaced them.
    mine = set(result.done.values())
    listed = read_manifest(out).get("done")
    known = listed.items() if isinstance(listed, dict) else ()
    earlier = {path: name for path, name in known if str(name) not in mine and (out / str(name)).is_dir()}
    done = earlier | {os.path.abspath(path): name for path, name in result.done.items()}
    content = {"settings": settings.as_json(), **asdict(result), "done": done, "versions": versions()}
    write_json(out / MANIFEST, content)
