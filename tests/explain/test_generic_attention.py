"""Generic attention: small and infinite relevance, and models that average."""

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import FAMILIES


def test_generic_attention_of_averaging_models_leaves_the_identity_out() -> None:
    family = FAMILIES["dinov3"]
    model = family.build().double().eval()
    images = torch.randn(1, 3, *family.size, dtype=torch.float64)
    with pytest.warns(vi.ZeroMapWarning):
        result = vi.GenericAttention(model).patch_map(images, target=lambda output: 0 * output.sum(1))
    assert (result == 0).all()


@pytest.mark.parametrize("method", [vi.GenericAttention, vi.TransformerAttribution])
@pytest.mark.parametrize("family_name", ["reg4_gap", "siglip"])
def test_small_relevance_is_not_lost_beside_the_identity(method: type[vi.Explainer], family_name: str) -> None:
    # Where patches are read directly, the identity adds 1/16 to each, beside which 1e-9 would be rounded away.
    family = FAMILIES[family_name]
    model, images = family.build(), family.images()
    result = method(model).patch_map(images, target=lambda output: 1e-7 * output[:, 1])
    exact = method(model.double()).patch_map(images.double(), target=lambda output: 1e-7 * output[:, 1])
    assert 0 < exact.max() < 1e-8
    assert (result - exact).abs().max() < 1e-3 * exact.max()


def test_relevance_that_overflows_is_told(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="the relevance of the patches is not finite"):
        vi.GenericAttention(model).patch_map(images, target=lambda output: output[:, 0] * torch.inf)
