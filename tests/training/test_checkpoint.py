"""Checkpoints: reading one runs no code."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_interactions.training.checkpoint import load_checkpoint, save_checkpoint


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'harm'}",)

    path = tmp_path / "checkpoint.pt"
    torch.save({"step": 1, "optimizer": Harm()}, path)
    with pytest.raises(ValueError, match="`resume` needs a checkpoint of `vit-interactions train`"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="`resume` needs a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()
    save_checkpoint(path, {"weights": torch.ones(2)})
    with pytest.raises(ValueError, match="got another file or an older format"):
        load_checkpoint(path)
    save_checkpoint(path, {"step": 3, "weights": torch.ones(2)})
    assert load_checkpoint(path)["step"] == 3
