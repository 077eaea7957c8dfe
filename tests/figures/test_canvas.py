"""The image below every map: at its place, pale outside the model's input."""

import pytest
import torch
from PIL import Image
from torchvision import transforms

from tests.helpers.drawn import LAYOUT, PLACES, centers, drawn, prepared
from vit_interactions import figures


@pytest.mark.parametrize(("size", "left", "top"), PLACES, ids=["portrait", "landscape"])
def test_image_outside_the_model_input_is_pale(size, left, top):
    axes, color = drawn(lambda axes: figures.draw_image(axes, prepared(size), LAYOUT))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, size[0]), (size[1], 0))
    assert (color(*centers(left, top)[1, 1]) == 128).all()
    for corner in ((size[0] * 0.02, size[1] * 0.02), (size[0] * 0.98, size[1] * 0.98)):
        assert (color(*corner) > 200).all()


def test_padding_patches_are_inside_the_axes():
    steps = transforms.Compose([transforms.CenterCrop((32, 48)), transforms.ToTensor()])
    small = figures.prepare(Image.new("RGB", (48, 16)), torch.nn.Identity(), steps)
    axes, color = drawn(lambda axes: figures.draw_image(axes, small, LAYOUT))
    assert axes.get_ylim() == (24.0, -8.0)
    assert (color(24, 8) == 0).all()
    assert (color(24, -4) == color(24, 20)).all()
    assert (color(24, -4) == round(0.85 * 255)).all()
