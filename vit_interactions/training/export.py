"""A trained model as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import save_for_hf
from torch import nn

from vit_interactions.files import partial_path, write_whole

# What timm's configuration of a model says of where its weights came from.
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
) -> None:
    """Write config.json and model.safetensors, each whole or not at all.

    Args:
        model: of timm.
        folder: made if missing; what was exported to it before is replaced.
        config: how it wants its images, by timm's `resolve_data_config`; None: as the model says.
        arguments: further ones that it was created with.
        class_names: of the classes in order, for the configuration.
        windows: α and β of the windows that it was trained with, likewise.

    Example:
        >>> import tempfile, timm, torch
        >>> model = timm.create_model("test_vit", num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_model(model, Path(folder))
        ...     loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        >>> torch.equal(loaded(torch.ones(1, 3, 160, 160)), model(torch.ones(1, 3, 160, 160)))
        True
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = partial_path(folder / "export")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir()
    try:
        known: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        description: dict[str, Any] = {
            "pretrained_cfg": {
                **{name: value for name, value in known.items() if value is not None and name not in ORIGIN},
                **(config or {}),
            }
        }
        if class_names:
            description["label_names"] = list(class_names)
        if windows:
            description["windows"] = dict(windows)
        arguments = dict(arguments or {})
        save_for_hf(model, str(partial), model_config=description, model_args=arguments, safe_serialization=True)
        for file in partial.iterdir():
            content = file.read_bytes()
            write_whole(folder / file.name, lambda target, content=content: target.write(content))  # type: ignore[misc]
    finally:
        shutil.rmtree(partial, ignore_errors=True)
