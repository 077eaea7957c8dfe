"""Devices must have a name."""

import errno
from importlib import import_module
from pathlib import Path
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
import vit_interactions as vi
from tests.helpers.fuzzed import run
from vit_interactions.images.masks import masks_by_image, unused_masks
from vit_interactions.loading.classifiers import create_classifier, load_classifier
from vit_interactions.loading.predictions import model_output, predict
from vit_interactions.training.data.folders import ImageFolder
from vit_interactions.training.export import export_model
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.utilities.files import WriteError
from vit_interactions.utilities.processes import process_group


def test_workers_have_a_limit_and_devices_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`workers`"):
        EvaluationSettings(data=tmp_path, model="test_vit", workers=10**30)
    with pytest.raises(ValueError, match="`device` must be"), process_group("--"):
        pass
