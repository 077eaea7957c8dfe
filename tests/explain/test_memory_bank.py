"""Tests of the memory bank as a target: one vote per image, transformers models, and errors."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import FAMILIES
from vit_interactions.explain.memory_bank import dimension_weights

METHODS: dict[str, Callable[[nn.Module], vi.Explainer]] = {
    "tam": lambda model: vi.TransitionAttention(model, steps=4, start=0),
    "bi head": lambda model: vi.BeyondIntuition(model, steps=4, start=1),
    "bi token": lambda model: vi.BeyondIntuition(model, variant="token", steps=4, start=1),
    "legrad": lambda model: vi.LeGrad(model, layers="all"),
}


def featureless_vit() -> tuple[Any, Tensor]:
    """Return a ViT without a classifier, and images."""
    family = FAMILIES["vit"]
    model: Any = family.build()
    model.reset_classifier(0)
    return model.eval().double(), family.images(3).double()


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_every_point_and_every_block_is_scored_by_the_images_own_vote(
    make: Callable[[nn.Module], vi.Explainer],
) -> None:
    model, images = featureless_vit()
    with torch.no_grad():
        features = model(images)
        black = model(0 * images[:1])
    # The zero image has its own neighbors, of another label than the images'.
    bank = vi.MemoryBank(torch.cat([features, black]), torch.tensor([0, 1, 2, 9]), neighbors=1)
    unit = bank.features
    weights = torch.stack([dimension_weights(f.float(), unit[i : i + 1]) for i, f in enumerate(features)])
    result = make(model).patch_map(images, target=bank)
    expected = make(model).patch_map(images, target=lambda output: (output * weights).sum(1))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    each_its_own = make(model).patch_map(images, target=lambda output: bank(output))
    assert (each_its_own - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_fixed_vote_scores_other_features_by_hand() -> None:
    bank = vi.MemoryBank(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([7, 3]), neighbors=1)
    score = bank.fixed(torch.tensor([[0.6, 0.8]]))  # q = (.36, .64), so w = (0, 1)
    assert score(torch.tensor([[5.0, 2.0]])).tolist() == [2.0]
    assert bank(torch.tensor([[5.0, 2.0]])).tolist() == [5.0]  # its own neighbor is (1, 0), so w = (1, 0)


def tiny_dinov2() -> Any:
    """Tiny, of random weights."""
    config = hf.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56, mlp_ratio=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.Dinov2Model(config).eval()


@pytest.mark.parametrize("method", [vi.DynamicAccumulatedAttention, vi.LeGrad, vi.GenericAttention])
def test_transformers_models_are_read_by_their_pooler_output(method: type[vi.Explainer]) -> None:
    model = tiny_dinov2()
    images = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 0, 1, 1])
    with torch.no_grad():
        features = model(images).pooler_output
    bank = vi.MemoryBank.build(model, [(images[:2], labels[:2]), (images[2:], labels[2:])], neighbors=2)
    torch.testing.assert_close(bank.features, features / features.norm(dim=1, keepdim=True))
    weights = torch.stack([bank.weights(feature) for feature in features])
    result = method(model).patch_map(images, target=bank)
    expected = method(model).patch_map(images, target=lambda output: (output.pooler_output * weights).sum(1))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    assert result.max() > 0


def test_outputs_without_features_are_refused_by_the_remedy() -> None:
    images = torch.zeros(2, 3, 64, 64)
    config = hf.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=64,
        patch_size=16,
    )
    for model, came in (
        (hf.ViTModel(config, add_pooling_layer=False), "BaseModelOutputWithPooling"),
        (hf.ViTForImageClassification(config), "ImageClassifierOutput"),
        (nn.Flatten(2), "(2, 3, 4096)"),
    ):
        with pytest.raises(ValueError, match=rf"as `pooler_output`, got {re.escape(came)}\. Wrap the model"):
            vi.MemoryBank.build(model, [(images, torch.zeros(2, dtype=torch.int64))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "`neighbors` must be >= 1, got 0"),
        ({"neighbors": 2.5}, "`neighbors` must be an int, got 2.5"),
        ({"temperature": 0}, "`temperature` must be finite and > 0, got 0"),
        ({"temperature": -0.1}, "`temperature` must be finite and > 0, got -0.1"),
        ({"temperature": float("inf")}, "`temperature` must be finite and > 0, got inf"),
        ({"temperature": float("nan")}, "`temperature` must be finite and > 0, got nan"),
        ({"features": torch.tensor([[1.0, float("nan")]])}, "`features` must be finite, got NaN or infinite"),
        ({"features": torch.tensor([[1.0, float("inf")]])}, "`features` must be finite, got NaN or infinite"),
    ],
)
def test_settings_outside_their_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vi.MemoryBank(**{"features": torch.eye(2), **options})


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the memory bank's width 2, got 3"):
        vi.MemoryBank(torch.eye(2))(torch.ones(1, 3))
