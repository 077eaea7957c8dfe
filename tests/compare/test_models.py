"""Several models side by side."""

import timm
import torch
from PIL import Image
from torch import nn

import vit_interactions as vi
from tests.helpers.comparing import PROBABILITY


def test_several_models_and_pillow_images(model: nn.Module) -> None:
    torch.manual_seed(1)
    other = timm.create_model("test_vit", num_classes=3, img_size=96).train()
    modes = [module.training for module in other.modules()]
    sideways = Image.effect_noise((60, 90), 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    images = [Image.effect_noise((80, 60), 50), sideways]
    sideways.getexif().update(exif)
    comparison = vi.compare(images, {"small": model, "<b>large</b>": other}, ["raw_attention"], [PROBABILITY])
    assert comparison.models == ["small", "<b>large</b>"]
    assert [image.key for image in comparison.images] == ["image-1", "image-2"]
    assert comparison.image("image-1").size == (80, 60)
    assert comparison.image("image-2").size == (90, 60)
    assert comparison.maps("small", "image-1")["raw_attention"].shape == (4, 4)
    assert comparison.maps("<b>large</b>", "image-1")["raw_attention"].shape == (6, 6)
    assert [module.training for module in other.modules()] == modes
    assert comparison.table().groupby("model").size().tolist() == [len(comparison.table()) // 2] * 2
    other.eval()
    expected = vi.compare(images, other, ["raw_attention"], [PROBABILITY])
    table = comparison.table()
    mine = table[(table["model"] == "<b>large</b>") & (table["metric"] == "probability")]["value"].tolist()
    assert mine == expected.table().query("metric == 'probability'")["value"].tolist()
    shown = comparison._repr_html_()
    assert "&lt;b&gt;large&lt;/b&gt;" in shown
    assert "<b>" not in shown
