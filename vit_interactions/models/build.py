"""Build a model of timm's ViT family, as timm builds its own."""

from typing import Any, TypeVar

from timm.models import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

Model = TypeVar("Model", bound=VisionTransformer)


def build_vit(
    kind: type[Model], variant: str, pretrained: bool, shape: dict[str, Any], options: dict[str, Any]
) -> Model:
    """Build a model of a registered name.

    Args:
        kind: the class to build.
        variant: the name.
        pretrained: whether to load the weights that its configuration names.
        shape: what the name stands for.
        options: of the caller, which go before the shape.
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
