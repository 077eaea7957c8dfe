"""Cases of models for the token metrics, and the families that average their tokens."""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention import token_layout
from vit_interactions.metrics import Case

MEANS = ("dinov3", "dinov3_qkvb", "eva02", "beit", "relpos", "reg4_gap", "naflex", "parallel_scaling")


def case_of(model: nn.Module, images: Tensor, target: int = 2, **options: Any) -> Case:
    layout = token_layout(model, (images.shape[-2], images.shape[-1]))
    given: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, **options}
    return Case(model=model, inputs=images[:1], target=target, layout=layout, **given)
