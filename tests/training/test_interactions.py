"""Patch interactions are counted per kind of model."""

from pathlib import Path

import pytest
import timm
import torch

import vit_interactions as vi
from tests.helpers.tiny_images import (
    SIZE,
)
from vit_interactions.loading.classifiers import load_classifier
from vit_interactions.training.evaluate import evaluate

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def test_interactions_are_counted_per_kind_of_model(teacher_weights: Path) -> None:
    images, classes = torch.rand(3, 3, SIZE, SIZE), torch.tensor([0, 1, 2])
    batches = [(images[:2], classes[:2]), (images[2:], classes[2:])]
    plain = timm.create_model("test_vit", img_size=SIZE).eval()
    assert evaluate(plain, batches).operations == 256.0

    winft = timm.create_model("test_winft", img_size=SIZE).eval()
    with vi.models.record_windows(winft) as record, torch.no_grad():
        winft(images)
    counts = [sum(int(mask[i].sum()) for mask in record.masks) / len(record.masks) for i in range(3)]
    assert evaluate(winft, batches).operations == pytest.approx(sum(counts) / 3)

    vit = load_classifier("test_vit", teacher_weights, img_size=SIZE)
    adaptive = timm.create_model("test_awd_vit", img_size=SIZE).eval()
    from vit_interactions.training.teacher import WindowTeacher

    adaptive.set_teacher(WindowTeacher(vit, 0.05, 0.2))
    fields = vi.ResponsiveFieldSize(vit, 0.05, 0.2).field(images)
    result = evaluate(adaptive, batches)
    assert result.operations == pytest.approx(fields.operations.float().mean().item())
    assert result.operations is not None
    assert result.operations < 256 == result.pairs

    other = timm.create_model("test_resnet").eval()
    assert evaluate(other, batches).operations is None
