"""The images that a study uses, and the patches on their objects."""

from pathlib import Path

import pytest
import torch

from tests.helpers.noise import write_noise
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.field_study.objects import find_objects
from vit_interactions.images.boxes import ObjectBox

LEFT, ALL, NONE = ObjectBox(0, 0, 40, 80), ObjectBox(-1, -1, 99, 99), ObjectBox(0, 0, 1, 1)


def test_images_with_objects_on_some_patches_are_taken(tmp_path: Path) -> None:
    paths = write_noise(tmp_path / "images", dict.fromkeys("abcd", (80, 80)))
    paths[3].write_text("no image")
    boxes = {paths[0]: [LEFT], paths[1]: [ALL], paths[2]: [NONE, LEFT], paths[3]: [LEFT]}
    images, uniform, failed = find_objects(sharp_vit(img_size=64), boxes)
    assert [image.path for image in images] == [paths[0], paths[2]]
    assert uniform == [paths[1]]
    assert list(failed) == [str(paths[3])]
    assert "is not an image" in failed[str(paths[3])]
    left_half = torch.tensor([True, True, False, False]).expand(4, 4)
    assert torch.equal(images[0].inside, left_half)  # centers of patches at 10, 30, 50 and 70 pixels, nearly
    assert torch.equal(images[1].inside, left_half)  # in any of the boxes
    assert images[0].as_json()["boxes"] == [[0, 0, 40, 80]]


def test_models_without_attention_are_unsupported(tmp_path: Path) -> None:
    import timm

    paths = write_noise(tmp_path / "images", {"a": (80, 80)})
    with pytest.raises(UnsupportedModelError):
        find_objects(timm.create_model("test_resnet").eval(), {paths[0]: [LEFT]})
