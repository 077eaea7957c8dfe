"""Checkpoints: reading one runs no code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.command_line import set_field
from tests.helpers.trained import read, refused
from vit_interactions.training.checkpoint import load_checkpoint, save_checkpoint
from vit_interactions.training.settings import TrainingSettings

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
ADVICE = "Restore the file, or train again into another folder."
NAN = float("nan")
WEIGHT = "patch_embed.proj.bias"

FIELDS: list[tuple[str, Any, str]] = [
    ("step", "4", "`step` must be a whole number, got '4'"),
    ("step", -1, "`step` must be >= 0, got -1"),
    ("step", NAN, "`step` must be a whole number, got nan"),
    ("step", 5, "was edited: the checksum of its plain values"),
    ("evaluated", 5, "`evaluated` must be in [0, 4], got 5"),
    ("evaluated", 2, "was edited: the checksum of its plain values"),
    ("lr", 0.01, "was edited: the checksum of its plain values"),
    ("best", 99.0, "was edited: the checksum of its plain values"),
    ("plain_sha256", ..., "was edited: the checksum of its plain values"),
    ("epoch_steps", 0, "`epoch_steps` must be >= 1, got 0"),
    ("best", NAN, "`best` must be a number, got nan"),
    ("lr", torch.zeros(2), "`lr` must be a number, got tensor([0., 0.])"),
    ("optimizer", ..., "has no `optimizer`"),
    ("state_dict_ema", ..., "has no `state_dict_ema`"),
    ("meter", [], "`meter` must be an object, got []"),
    ("meter/counts/epoch", ..., "has no `meter.counts.epoch`"),
    ("meter/sums/epoch/loss", NAN, "`meter.sums.epoch.loss` must be a number, got nan"),
    (f"state_dict/{WEIGHT}", ..., f"has no `state_dict.{WEIGHT}`"),
    ("state_dict/more", torch.zeros(1), "`state_dict` must have the model's weights only, got `more`"),
    (
        f"state_dict/{WEIGHT}",
        torch.zeros(3),
        f"`state_dict.{WEIGHT}` must be float32 of shape (64,), got float32 of shape (3,)",
    ),
    (f"state_dict_ema/{WEIGHT}", torch.full((64,), NAN), f"`state_dict_ema.{WEIGHT}` must be finite, got NaN"),
    ("optimizer/param_groups", [], "`optimizer.param_groups` must have length 1, got 0"),
    ("optimizer/param_groups/0/momentum", ..., "has no `optimizer.param_groups[0].momentum`"),
    ("optimizer/param_groups/0/params/0", ..., "`optimizer.param_groups[0].params` must have length"),
    ("optimizer/state/999", {}, "`optimizer.state` has an unknown entry 999"),
    ("optimizer/state/3/momentum_buffer", torch.zeros(3), "`optimizer.state[3].momentum_buffer` must have shape"),
    (
        "optimizer/state/0/momentum_buffer",
        torch.full((1, 1, 64), NAN),
        "`optimizer.state[0].momentum_buffer` must",
    ),
]


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


def put(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes one field, such as "a/b" for b in a; `...` deletes it."""

    def change(state: dict[str, Any]) -> None:
        set_field(state, field, value)

    return change


@pytest.mark.parametrize(("field", "value", "words"), FIELDS, ids=[f"{f}={str(v)[:9]}" for f, v, _ in FIELDS])
def test_an_edited_field_of_a_checkpoint_is_named(
    field: str, value: Any, words: str, settings: TrainingSettings, out: Path
) -> None:
    state = read(out / "checkpoint.pt")
    put(field, value)(state)
    torch.save(state, out / "checkpoint.pt")
    line = refused(settings, out)
    assert line.startswith(str(out / "checkpoint.pt"))
    assert words in line
    assert line.endswith(ADVICE)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_of_a_checkpoint_is_found(place: float, settings: TrainingSettings, out: Path) -> None:
    path = out / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 64
    path.write_bytes(content)
    assert f"{path} is damaged: the checksum of its part archive/" in refused(settings, out)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_file_that_is_not_a_checkpoint_is_named(content: bytes, settings: TrainingSettings, out: Path) -> None:
    (out / "checkpoint.pt").write_bytes(content)
    assert f"{out / 'checkpoint.pt'}, which could not be read as one (BadZipFile). {ADVICE}" in refused(
        settings, out
    )
