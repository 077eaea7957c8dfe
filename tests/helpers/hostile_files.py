"""Hostile tables, class maps, checkpoints and edited JSON, each with the expected result of a command."""

import copy
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tests.helpers.hostile_images import EVIL, SCRIPT, Hostile, bytes_of, damaged

SPECIAL = [
    Hostile("named pipe", os.mkfifo),
    Hostile("device", lambda path: path.symlink_to("/dev/zero")),
    Hostile("folder", Path.mkdir),
    Hostile("broken link", lambda path: path.symlink_to("nowhere")),
    Hostile("empty", bytes_of(b"")),
]


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def tables(rng: np.random.Generator, count: int, image: str) -> list[Hostile]:
    """Return hostile CSVs of boxes for an image of 48 x 40 pixels."""
    header = "file,left,top,right,bottom,index\n"
    good = f"{header}{image},4,4,30,30,1\n"
    fixed: dict[str, tuple[str | bytes, bool | None]] = {
        "no columns": (f"{image},4,4,30,30,1\n", False),
        "header only": (header, None),
        "a column twice": (good.replace("top", "left", 1), None),
        "NaN": (good.replace("30", "nan"), False),
        "infinity": (good.replace("30", "inf"), False),
        "1e400": (good.replace("30", "1e400"), False),
        "a number of 5,000 digits": (good.replace("30", "9" * 5000), False),
        "a class of 5,000 digits": (good.replace(",1\n", f",{'9' * 5000}\n"), False),
        "no number": (good.replace("30", EVIL), False),
        "sides swapped": (good.replace("4,4", "50,50"), False),
        "too few cells": (good.replace(",30,1", ""), False),
        "too many cells": (good.replace(",1\n", ",1,2,3\n"), None),
        "unclosed quote": (header + f'"{image},4,4,30,30,1\n', False),
        "a field of 200,000 characters": (good + "x" * 200_000 + ",1,1,2,2,1\n", False),
        "zero byte": (good.encode() + b"\0,1,1,2,2,1\n", None),
        "UTF-16": (good.encode("utf-16"), True),
        "UTF-16 without a mark": (good.encode("utf-16-le"), False),
        "Latin-1": ((good + "caf\u00e9.png,1,1,2,2,1\n").encode("latin-1"), False),
        "UTF-8 with a mark": (good.encode("utf-8-sig"), True),
        "Windows lines": (good.replace("\n", "\r\n"), True),
        "old Mac lines": (good.replace("\n", "\r"), None),
        "no row fits": (header + f"{EVIL}.png,1,1,2,2,1\n", False),
        "a row fits nothing": (good + f'"{EVIL}{SCRIPT}.png",1,1,2,2,1\n=cmd|x.png,1,1,2,2,1\n', True),
        "paths out of the folder": (good + "../../../etc/passwd,1,1,2,2,1\n", True),
        "negative class": (good.replace(",1\n", ",-1\n"), None),
        "beyond the image": (good.replace("30", "3000000"), None),
    }
    listed = [
        Hostile(name, bytes_of(text.encode() if isinstance(text, str) else text), readable)
        for name, (text, readable) in fixed.items()
    ]
    return [*SPECIAL, *listed, *(damaged(rng, good.encode()) for _ in range(count))]


def class_maps(rng: np.random.Generator, count: int) -> list[Hostile]:
    """Return hostile class maps for the classes a and b."""
    fixed: dict[str, tuple[bytes, bool | None]] = {
        "mark": (b"\xef\xbb\xbfa\nb\n", True),
        "empty lines at the end": (b"a\nb\n\n\n", True),
        "empty line": (b"a\n\nb\n", False),
        "repeated": (b"a\na\n", False),
        "unknown": (b"a\nc\n", False),
        "one more": (b"a\nb\nc\n", False),
        "one less": (b"a\n", False),
        "UTF-16": ("a\nb\n".encode("utf-16"), True),
        "UTF-16 without a mark": ("a\nb\n".encode("utf-16-le"), False),
        "Latin-1": (b"a\nb\xe9\n", False),
        "zero byte": (b"a\0\nb\n", False),
        "controls": (f"{EVIL}\nb\n".encode(), False),
        "a long line": (b"a\n" + b"b" * 1_000_000, False),
    }
    listed = [Hostile(name, bytes_of(text), readable) for name, (text, readable) in fixed.items()]
    return [*SPECIAL, *listed, *(damaged(rng, b"a\nb\n") for _ in range(count))]


def torch_bytes(content: Any) -> bytes:
    """Save anything as torch does."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def checkpoints(
    rng: np.random.Generator, count: int, state: dict[str, torch.Tensor], marker: Path
) -> list[Hostile]:
    """Return hostile checkpoints of a model with these weights.

    Args:
        rng: draws the random ones.
        count: how many random ones.
        state: of the model.
        marker: file that code in a checkpoint writes when it runs.
    """
    key, inner = "head.weight", "blocks.0.attn.qkv.weight"
    value = state[key]
    changed: dict[str, Any] = {
        "missing key": {k: v for k, v in state.items() if k != key},
        "another key": state | {EVIL: torch.ones(1)},
        "another shape": state | {key: value[:, :-1]},
        "NaN": state | {key: value * float("nan")},
        "NaN inside": state | {inner: state[inner] * float("nan")},
        "infinity": state | {key: value + float("inf")},
        "integers": state | {key: value.to(torch.int32)},
        "complex": state | {key: value.to(torch.complex64)},
        "sparse": state | {key: value.to_sparse()},
        "no storage": state | {key: value.to("meta")},
        "stride 0": state | {key: torch.zeros(1).expand(2**40)},
        "a string": state | {key: EVIL},
        "None": state | {key: None},
        "a scalar": state | {key: torch.tensor(1.0)},
        "keys that are numbers": {1: value},
        "a list": [value],
        "a tensor": value,
        "empty dict": {},
        "nested": {"state_dict": {"state_dict": {"state_dict": {}}}},
        "code": {"state_dict": Code(marker)},
        "code beside weights": state | {"epoch": Code(marker)},
        "a module": torch.nn.Linear(2, 2),
    }
    loop: dict[str, Any] = {}
    loop["state_dict"] = loop
    good = save({name: part.contiguous() for name, part in state.items()})
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    header[key]["data_offsets"] = [0, 2**40]
    offsets = json.dumps(header).encode()
    zipped = torch_bytes(state)
    raw = {
        "cyclic": torch_bytes(loop),
        "plain pickle with code": pickle.dumps(Code(marker)),
        "old pickle with code": pickle.dumps({"a": Code(marker)}, 0),
        "cut pickle": zipped[: len(zipped) // 2],
        "a million marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
        "safetensors: cut in the header": good[: 8 + length // 2],
        "safetensors: cut in the data": good[: 8 + length + (len(good) - length) // 2],
        "safetensors: huge header": struct.pack("<Q", 2**62) + good[8:],
        "safetensors: no JSON": struct.pack("<Q", 4) + b"\xff{}[",
        "safetensors: offsets beyond the file": struct.pack("<Q", len(offsets)) + offsets + good[8 + length :],
        "safetensors: 8 bytes": good[:8],
        "text": b"weights",
    }
    listed = [Hostile(name, bytes_of(torch_bytes(content))) for name, content in changed.items()]
    listed += [Hostile(name, bytes_of(content)) for name, content in raw.items()]
    fine = {
        "float8": state | {key: value.to(torch.float8_e4m3fn)},
        "prefix": {f"module.model.{k}": v for k, v in state.items()},
        "wrapped": {"model_state_dict": state},
    }
    listed += [Hostile(name, bytes_of(torch_bytes(content)), True) for name, content in fine.items()]
    return [*SPECIAL, *listed, *(damaged(rng, good, zipped) for _ in range(count))]


WRONG = [None, "", EVIL, SCRIPT, "../../x", -1, 0, 1e308, float("nan"), 2**70, True, [], {}, [[]], {"a": None}]


def edited_json(rng: np.random.Generator, text: bytes) -> tuple[str, bytes]:
    """Edit a JSON file at random; return what was done, and the file."""
    draw = rng.integers(12)
    if draw == 0:
        return "nested 100,000 deep", b"[" * 100_000
    if draw == 1:
        return "cut", text[: rng.integers(len(text))]
    if draw == 2:
        return "a list", b"[1]"
    if draw == 3:
        return "UTF-16", text.decode().encode("utf-16")
    content = json.loads(text)
    places = list(paths_of(content))
    place = places[rng.integers(len(places))]
    if draw < 6:
        return f"no {'.'.join(map(str, place))}", dump(changed_at(content, place, remove=True))
    value = WRONG[rng.integers(len(WRONG))]
    return f"{'.'.join(map(str, place))} = {value!r:.20}", dump(changed_at(content, place, value))


def paths_of(content: Any, place: tuple[Any, ...] = ()) -> Any:
    """Yield the place of every value inside JSON or a checkpoint."""
    parts = (
        content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    )
    for key, value in parts:
        yield (*place, key)
        yield from paths_of(value, (*place, key))


def changed_at(content: Any, place: tuple[Any, ...], value: Any = None, *, remove: bool = False) -> Any:
    """Return a copy with another value, or none, in a place."""
    edited = copy.deepcopy(content)
    inside = edited
    for key in place[:-1]:
        inside = inside[key]
    if remove:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return edited


def dump(content: Any) -> bytes:
    """Write JSON, NaN included."""
    return json.dumps(content).encode()
