"""Export a trained model to a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from vit_interactions.training.checkpoint import ADVICE
from vit_interactions.utilities.files import (
    checksums,
    partial_path,
    remove_partials,
    write_bytes,
    write_error,
    write_errors,
)
from vit_interactions.utilities.json_files import DamagedFileError

# Keys of timm's model configuration that describe the origin of its weights.
ORIGIN = (
    "architecture",
    "tag",
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "custom_load",
)


def export_model(
    model: nn.Module,
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    windows: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Write config.json and model.safetensors, each atomically.

    Args:
        model: a timm model.
        folder: created if missing; an earlier export is replaced.
        config: input configuration, as timm's `resolve_data_config`; None for the model's own.
        arguments: further arguments that the model was created with.
        class_names: names of the classes in order, for the configuration.
        windows: settings of the windows in training, for the configuration.

    Returns:
        File name -> SHA-256.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.

    Example:
        >>> import tempfile, timm, torch
        >>> model = timm.create_model("test_vit", num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = export_model(model, Path(folder))
        ...     loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        >>> torch.equal(loaded(torch.ones(1, 3, 160, 160)), model(torch.ones(1, 3, 160, 160)))
        True
    """
    known: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    kept = {name: value for name, value in known.items() if value is not None and name not in ORIGIN}
    description: dict[str, Any] = {"pretrained_cfg": {**kept, **(config or {})}}
    if class_names:
        description["label_names"] = list(class_names)
    if windows:
        description["windows"] = dict(windows)
    partial = partial_path(folder / "export")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        partial.mkdir()
    try:
        with _writing(folder):
            save_for_hf(
                model,
                str(partial),
                model_config=description,
                model_args=dict(arguments or {}),
                safe_serialization=True,
            )
        written = {}
        for file in sorted(partial.iterdir()):
            content = file.read_bytes()
            written[file.name] = hashlib.sha256(content).hexdigest()
            write_bytes(folder / file.name, content)
        return written
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def repair_export(folder: Path, files: Mapping[str, str], source: Path) -> None:
    """Replace damaged files of an exported model from another folder, if it has the same files.

    `files` is file name -> SHA-256, from `export_model`.

    Raises:
        DamagedFileError: a file that is damaged or missing in both; nothing is changed.
        WriteError: the disk is full, or the folder cannot be written to.
    """
    damaged = [name for name, digest in checksums(folder, files).items() if digest != files[name]]
    whole = checksums(source, damaged)
    for name in damaged:
        if whole[name] != files[name]:
            raise DamagedFileError(f"{folder / name} is missing or damaged: its checksum differs", ADVICE)
    with write_errors(folder):
        for name in damaged:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / name, (source / name).read_bytes())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert errors as `write_errors` does, including system errors that safetensors reports as text."""
    with write_errors(folder):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise write_error(folder, OSError(int(number[1]), str(error))) from error
