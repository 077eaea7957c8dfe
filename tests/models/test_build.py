"""Models are built with timm's parameters, and options override the shape."""

import timm
from timm.models.vision_transformer import VisionTransformer

from vit_interactions.models.build import TEST_SHAPE, build_vit


def test_the_test_shape_is_timms_test_vit() -> None:
    built = build_vit(VisionTransformer, "test_vit", False, {**TEST_SHAPE, "img_size": 160}, {})
    expected = timm.create_model("test_vit").state_dict()
    assert {key: value.shape for key, value in built.state_dict().items()} == {
        key: value.shape for key, value in expected.items()
    }


def test_options_override_the_shape() -> None:
    built = build_vit(VisionTransformer, "test_vit", False, TEST_SHAPE, {"depth": 2, "num_classes": 3})
    assert len(built.blocks) == 2
    assert built.head.weight.shape == (3, 64)
