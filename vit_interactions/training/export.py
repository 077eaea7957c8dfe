"""A trained model as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models import save_for_hf
from torch import nn

from vit_interactions.training.checkpoint import write_whole


def export_model(
    model: nn.Module, folder: Path, config: Mapping[str, Any] | None = None, class_names: Sequence[str] = ()
) -> None:
    """Write config.json and model.safetensors, each whole or not at all.

    Args:
        model: of timm.
        folder: made if missing; what was exported to it before is replaced.
        config: how it wants its images, by timm's `resolve_data_config`; None: as the model says.
        class_names: of the classes in order, for the configuration.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("test_vit", num_classes=3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_model(model, Path(folder))
        ...     loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        >>> torch.equal(loaded(torch.ones(1, 3, 160, 160)), model(torch.ones(1, 3, 160, 160)))
        True
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        names = {"label_names": list(class_names)} if class_names else None
        given = None if config is None else dict(config)
        save_for_hf(model, partial, model_config=names, safe_serialization=True, data_config=given)
        for file in Path(partial).iterdir():
            content = file.read_bytes()
            write_whole(folder / file.name, lambda target, content=content: target.write(content))  # type: ignore[misc]
