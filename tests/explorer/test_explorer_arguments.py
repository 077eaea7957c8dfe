"""`vi.explorer` names wrong arguments before it runs the model."""

import pytest
import timm
import torch

import vit_interactions as vi


def test_a_tensor_is_no_image() -> None:
    with pytest.raises(TypeError, match=r"`image` must be a path or a PIL image, got Tensor\."):
        vi.explorer(timm.create_model("test_vit"), torch.zeros(1, 3, 160, 160))  # type: ignore[arg-type]
