"""Tests of CAMs of models with another token order: class tokens last, and patches not row by row."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from vit_interactions_adapters.methods import METHODS
from vit_pytorch.simple_vit_with_register_tokens import SimpleViT

import vit_interactions as vi
from tests.helpers.explaining import assert_near
from tests.helpers.twins import Outer, images, vit

# Untrained models may have no positive gradients.
pytestmark = pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
CAMS = [name for name, method in METHODS.items() if "cam" in name]
# Methods with an arbitrary sign, which depends on the order of the tokens.
ARBITRARY = {"eigencam", "eigengradcam", "kpca_cam"}
PATCHES = 16
REVERSED = torch.arange(PATCHES).flip(0)
COLUMNS = torch.arange(PATCHES).reshape(4, 4).T.flatten()
ORDERS = {
    "behind": torch.cat((1 + torch.arange(PATCHES), torch.tensor([0]))),
    "reversed": torch.cat((torch.tensor([0]), 1 + REVERSED)),
    "by columns": torch.cat((torch.tensor([0]), 1 + COLUMNS)),
    "by columns, behind": torch.cat((1 + COLUMNS, torch.tensor([0]))),
}


class Picked(nn.Module):
    """A module that reorders tokens."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.order = order

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.order]


def reordered(order: Tensor) -> Any:
    """Build `vit` with its tokens in another order from the first block to the last."""
    model = vit()
    model.norm_pre, model.norm = Picked(order), nn.Sequential(model.norm, Picked(order.argsort()))
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CAMS)
def test_the_order_of_tokens_does_not_matter(name: str, order: str) -> None:
    model, twin = reordered(ORDERS[order]), vit()
    torch.testing.assert_close(model(images()), twin(images()))
    for layer in (None, "blocks.1", "blocks.2.norm1"):
        found = METHODS[name](model, layer=layer).patch_map(images(), 1)
        wanted = METHODS[name](twin, layer=layer).patch_map(images(), 1)
        assert wanted.any()
        if name not in ARBITRARY:
            assert_near(found, wanted, 1e-6)


@pytest.mark.parametrize("name", ["gradcam", "layercam", "layer_grad_cam"])
def test_a_layer_without_gradient_raises_for_any_position_of_the_class_token(name: str) -> None:
    for model in (vit(), reordered(ORDERS["behind"])):
        with pytest.raises(
            ValueError, match=r"at the output of `blocks.2` is exactly 0 at every patch of image 0"
        ):
            METHODS[name](model, layer="blocks.2").patch_map(images(), 1)


def test_a_layer_before_the_patches_are_reordered_raises() -> None:
    model = reordered(ORDERS["by columns"])
    with pytest.raises(vi.UnsupportedModelError, match=r"`layer` must run after the first attention.*'pos_drop'"):
        METHODS["gradcam"](model, layer="pos_drop").patch_map(images(), 1)
    # Moving the class token does not reorder patches.
    model = reordered(ORDERS["behind"])
    assert METHODS["gradcam"](model, layer="blocks.0.norm1").patch_map(images(), 1).shape == (2, 4, 4)


def grad_cam(model: nn.Module, layer: str, patches: slice, score: Callable[[Any], Tensor]) -> Tensor:
    """Compute signed Grad-CAM, Σ_c a_c mean_p dS/da_c, for the patches of one layer."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _, args, output: kept.append(output if isinstance(output, Tensor) else output[0])
    )
    scores = score(model(images())).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(scores, kept)
    of_patches, gradient = kept[0][:, patches].detach(), gradient[:, patches]
    return (of_patches * gradient.mean(1, keepdim=True)).sum(-1).reshape(-1, 4, 4)


def yolos() -> nn.Module:
    config = hf.YolosConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48, image_size=(64, 64),
        patch_size=16, num_detection_tokens=5, initializer_range=0.3,
    )  # fmt: skip
    return hf.YolosForObjectDetection(config)


def registers() -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "dim": 24, "depth": 3, "heads": 3, "mlp_dim": 48}
    return SimpleViT(num_classes=5, num_register_tokens=4, **sizes)


def logits(output: Any) -> Tensor:
    return output.logits[:, 2, 1] if hasattr(output, "logits") else output[:, 3]


@pytest.mark.parametrize(
    ("build", "layer", "patches"),
    [
        (yolos, "vit.encoder.layer.1", slice(1, 17)),
        (registers, "transformer.layers.1.1", slice(0, 16)),
    ],
    ids=["class token before and detection tokens behind", "registers behind"],
)
def test_cams_of_models_with_trailing_tokens_equal_their_equations(
    build: Callable[[], nn.Module], layer: str, patches: slice
) -> None:
    torch.manual_seed(0)
    model = build().eval().double()
    expected = grad_cam(model, layer, patches, logits)
    assert expected.any()
    assert_near(METHODS["layer_grad_cam"](model, layer=layer).patch_map(images(), logits), expected, 1e-6)
    assert_near(METHODS["gradcam"](model, layer=layer).patch_map(images(), logits), expected.clamp(min=0), 1e-6)
    for name in CAMS:
        assert METHODS[name](model).patch_map(images(), logits).shape == (2, 4, 4)


def test_flipped_images_have_flipped_maps() -> None:
    model, twin = Outer(vit(), lambda x: x.flip(-1)), vit()
    for name in ("gradcam", "hirescam", "layer_grad_cam"):
        found = METHODS[name](model).patch_map(images().flip(-1), 1)
        assert_near(found, METHODS[name](twin).patch_map(images(), 1).flip(-1), 1e-6)
