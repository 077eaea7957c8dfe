"""Explain photographs and write what was found: figures, raw maps, and a manifest that says how they came about.

Each photograph gets a folder that appears whole or not at all; a photograph that fails is reported and skipped.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout, token_layout
from vit_interactions.explain import EXPLAINERS, Explainer
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer, InteractionUncertainty
from vit_interactions.explain.responsive_field_size import FieldExplainer
from vit_interactions.figures import (
    Photograph,
    field_figure,
    indiscriminative_figure,
    interaction_figure,
    load_photograph,
    map_figure,
    prepare,
)
from vit_interactions.functional.responsive_field import ResponsiveField, responsive_field

PACKAGES = ("vit_interactions", "torch", "timm", "captum", "numpy", "matplotlib", "pillow")
RESOLUTION = 120  # dots an inch


@dataclass(frozen=True)
class Settings:
    """What an explanation depends on beside the photograph.

    Attributes:
        model: the model's name.
        checkpoint: SHA-256 of the checkpoint's bytes; None for the weights that timm knows.
        methods: names of `EXPLAINERS`.
        patches: (row, col) of the patches whose interactions are drawn; empty for a choice by the figure.
        alpha: share of all patch pairs that count as relevant.
        beta: share of the patches that are dropped as indiscriminative.
    """

    model: str
    checkpoint: str | None = None
    methods: tuple[str, ...] = tuple(EXPLAINERS)
    patches: tuple[tuple[int, int], ...] = ()
    alpha: float = 0.10
    beta: float = 0.20

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass
class Report:
    """What became of each photograph: its folder, or the reason why it has none."""

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_photographs(paths: Iterable[Path]) -> list[Path]:
    """List the given files, and in the place of a folder the pictures directly in it, by name.

    Raises:
        ValueError: a folder without pictures.
    """
    endings = Image.registered_extensions()
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in endings and p.is_file())
            if not inside:
                raise ValueError(f"`photos` must be pictures or folders with some, but {path} has none.")
            found += inside
        else:
            found.append(path)
    return found


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
        resume: keep the folders that were made from the same photograph by the same settings.

    Yields:
        The report so far, after each photograph. `out`/manifest.json holds the same.
    """
    report = Report()
    out.mkdir(parents=True, exist_ok=True)
    for path, name in zip(photographs, folder_names(photographs), strict=True):
        folder = out / name
        try:
            origin = {"photograph": str(path), "sha256": sha256(path), "settings": settings.as_json()}
            if not (resume and _made_from(folder, origin)):
                _write_whole(folder, lambda partial: _explain(model, path, settings, partial, origin))  # noqa: B023
            report.done[str(path)] = name
        # A picture that cannot be read or explained is one picture less, not the end.
        except (OSError, ValueError) as error:
            report.failed[str(path)] = str(error)
        _write_manifest(out, settings, report)
        yield report


def folder_names(photographs: Sequence[Path]) -> list[str]:
    """Name a folder for each photograph after its file, apart also where files share a name.

    Example:
        >>> folder_names([Path("a/cat.jpg"), Path("b/cat.png"), Path("dog.jpg")])
        ['cat', 'cat-2', 'dog']
    """
    names: list[str] = []
    for photograph in photographs:
        stem = name = photograph.stem
        repeat = 2
        while name in names:
            name, repeat = f"{stem}-{repeat}", repeat + 1
        names.append(name)
    return names


def _explain(
    model: nn.Module, path: Path, settings: Settings, folder: Path, origin: dict[str, Any]
) -> None:
    photograph = prepare(load_photograph(path), model)
    inputs = photograph.input.unsqueeze(0).to(next(model.parameters()).device)
    layout = token_layout(model, (inputs.shape[-2], inputs.shape[-1]))
    prediction = predict(model, inputs)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    figures: dict[str, Figure] = {}
    for name in settings.methods:
        explainer = make_explainer(name, model, settings)
        patch_map = explainer.patch_map(inputs)[0]
        arrays[name] = patch_map.cpu().numpy()
        figures[name] = map_figure(
            photograph, patch_map, layout, title=_title(name, prediction), more_is_relevant=explainer.more_is_relevant
        )
    if any(issubclass(EXPLAINERS[name], InteractionExplainer) for name in settings.methods):
        _interactions(model, photograph, inputs, layout, settings, arrays, figures)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=RESOLUTION)
    np.savez_compressed(folder / "maps.npz", **arrays)
    manifest = {
        **origin,
        "prediction": prediction,
        "photograph_size": list(photograph.image.size),
        "seen_box": list(photograph.box_of_extent(layout.extent)),
        "layout": asdict(layout),
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        "figures": sorted(f"{name}.png" for name in figures),
        "methods": {name: describe(EXPLAINERS[name]) for name in settings.methods},
        "versions": versions(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _interactions(
    model: nn.Module,
    photograph: Photograph,
    inputs: Tensor,
    layout: TokenLayout,
    settings: Settings,
    arrays: dict[str, np.ndarray[Any, Any]],
    figures: dict[str, Figure],
) -> None:
    """Add the paper's figures, which show U, windows and fields together, and the tensors under them."""
    uncertainty = InteractionUncertainty(model).uncertainty(inputs)
    fields = responsive_field(uncertainty, layout.grid, settings.alpha, settings.beta)
    patches = list(settings.patches) or None
    figures["patch_interactions"] = interaction_figure(photograph, uncertainty[0], fields, layout, patches)
    figures["dropped_patches"] = indiscriminative_figure(photograph, uncertainty[0], layout)
    figures["responsive_fields"] = field_figure(photograph, fields, layout)
    arrays.update(field_arrays(uncertainty, fields))


def field_arrays(uncertainty: Tensor, fields: ResponsiveField) -> dict[str, np.ndarray[Any, Any]]:
    """Return the raw tensors of one image's interactions, under the names they have in the library."""
    tensors = {
        "uncertainty": uncertainty,
        "windows": fields.windows,
        "dropped": fields.dropped,
        "field_mask": fields.mask,
        "tendency": fields.tendency,
    }
    return {name: tensor[0].cpu().numpy() for name, tensor in tensors.items()}


def make_explainer(name: str, model: nn.Module, settings: Settings) -> Explainer:
    """Create a method for a model with the settings that it has."""
    method = EXPLAINERS[name]
    if issubclass(method, FieldExplainer):
        return method(model, alpha=settings.alpha, beta=settings.beta)
    return method(model)


def describe(method: type[Explainer]) -> dict[str, Any]:
    """Return what a method says of itself."""
    return {
        "class": method.__name__,
        "class_specific": method.class_specific,
        "forwards": method.forwards,
        "backwards": method.backwards,
        "more_is_relevant": method.more_is_relevant,
        "source": method.source,
    }


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> dict[str, Any] | None:
    """Return the top class of one image with its probability, and its name where it is known; None for features.

    Names are known for models of ImageNet's 1,000 classes and the subsets that timm knows.
    """
    if not getattr(model, "num_classes", 0):
        return None
    probability, index = model(inputs)[0].softmax(-1).max(-1)
    subset = infer_imagenet_subset(model)
    name = ImageNetInfo(subset).index_to_description(int(index)) if subset else None
    return {"index": int(index), "probability": float(probability), "name": name}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an explanation depends on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def _title(method: str, prediction: dict[str, Any] | None) -> str:
    words = method.replace("_", " ")
    if prediction is None:
        return words
    name = re.split(r",", prediction["name"])[0] if prediction["name"] else f"class {prediction['index']}"
    return f"{words} ({name}, {prediction['probability']:.0%})"


def _made_from(folder: Path, origin: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return all(manifest.get(key) == value for key, value in origin.items())


def _write_whole(folder: Path, write: Any) -> None:
    """Let `write` fill a folder beside the wanted one, and put it in its place when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(out: Path, settings: Settings, report: Report) -> None:
    content = {"settings": settings.as_json(), **asdict(report), "versions": versions()}
    partial = out / ".manifest.json.partial"
    partial.write_text(json.dumps(content, indent=2))
    os.replace(partial, out / "manifest.json")
