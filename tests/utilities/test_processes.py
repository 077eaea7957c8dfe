"""Devices must have a name, and workers a limit."""

from pathlib import Path

import pytest

from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.utilities.processes import process_group


def test_workers_have_a_limit_and_devices_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`workers`"):
        EvaluationSettings(data=tmp_path, model="test_vit", workers=10**30)
    with pytest.raises(ValueError, match="`device` must be"), process_group("--"):
        pass
