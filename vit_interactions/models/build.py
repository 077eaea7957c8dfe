"""Build models of timm's ViT family in the same way as timm."""

from typing import Any, TypeVar

from timm.models import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

Model = TypeVar("Model", bound=VisionTransformer)

# The shape of timm's `test_vit`.
TEST_SHAPE: dict[str, Any] = {
    "patch_size": 16,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 2,
    "mlp_ratio": 3,
    "dynamic_img_size": True,
}


def build_vit(
    kind: type[Model], variant: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]
) -> Model:
    """Build the model of a registered name.

    Args:
        kind: class of the model.
        variant: registered name.
        pretrained: load the pretrained weights of its configuration.
        shape: options that define the variant.
        options: options of the caller, which override the shape.
    """
    model: Model = build_model_with_cfg(
        kind,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"},
        **{**shape, **options},
    )
    return model
