"""`vit-interactions windows`: worker processes end quietly."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for number in range(300):
        path = tmp_path / "data" / "train" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    save_file(timm.create_model("test_vit", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "data"


def test_workers_of_windows_command_print_no_traceback(data: Path, tmp_path: Path) -> None:
    # Slow the workers down so that they are busy when the signal arrives; send it to all, like a terminal.
    code = (
        "import sys, time, vit_interactions.training.data.build_store as b\n"
        "pack = b.pack\n"
        "def slow(*a):\n    print('at work', flush=True)\n    time.sleep(0.3)\n    return pack(*a)\n"
        "b.pack = slow\n"
        "from vit_interactions.cli.main import main\nmain()"
    )
    arguments = ["--data", data, "--model", "test_vit", "--checkpoint", tmp_path / "weights.safetensors"]
    arguments += ["--out", tmp_path / "store", "--workers", "2", "--batch-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "windows", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("interrupted; run the same command with --resume to continue")
