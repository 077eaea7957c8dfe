"""The bundled models load offline and classify the images that they were trained for."""

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import create_dataset, create_transform, resolve_model_data_config

import vit_interactions as vi
from tests.helpers.data import DATA
from vit_interactions.models.mini import CLASSES, WEIGHTS

# timm's datasets do not close the files that they read.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
NAMES = ("vit_mini_patch8_112", "winft_mini_patch8_112")
IMAGENETTE = DATA / "imagenette160"
A_CLASS = 6


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_in_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = timm.create_model(name, pretrained=True)
    assert sum(p.numel() for p in model.parameters()) < 3e6
    stored = load_file(WEIGHTS / f"{name}.safetensors")
    for key, value in model.state_dict().items():
        assert stored[key].dtype == torch.float16
        assert torch.equal(value, stored[key].float()), key
    assert model.pretrained_cfg["label_names"] == tuple(CLASSES)


def test_both_files_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) <= 12e6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not IMAGENETTE.exists(), reason="needs Imagenette")
def test_they_classify_imagenette(name: str) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    dataset = create_dataset("", root=IMAGENETTE, split="val")
    assert list(dataset.reader.class_to_idx) == list(CLASSES)
    dataset.transform = create_transform(**resolve_model_data_config(model), is_training=False)
    classes = [target for _, target in dataset.reader.samples]
    chosen = [classes.index(kind) + number for kind in range(len(CLASSES)) for number in range(A_CLASS)]
    images, targets = zip(*(dataset[index] for index in chosen), strict=True)
    with torch.no_grad():
        right = model(torch.stack(images)).argmax(-1) == torch.tensor(targets)
    assert right.float().mean() > 0.5  # chance level: 0.1


def test_the_twins_differ_only_by_their_windows() -> None:
    vit, winft = (timm.create_model(name, pretrained=True).eval() for name in NAMES)
    images = torch.rand(2, 3, 112, 112)
    with torch.no_grad(), vi.record_windows(winft) as record:
        winft(images)
    assert len(record.masks) == len(vit.blocks) == 6
    winft.load_state_dict(vit.state_dict())
    assert winft.pretrained_cfg["input_size"] == vit.pretrained_cfg["input_size"] == (3, 112, 112)
