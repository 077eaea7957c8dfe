"""Token ablation: values by hand, and a slow loop that drops tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.planted import PATCH, planted_image, planted_model


def logits_without(model: Any, images: Tensor, gone: set[int]) -> Tensor:
    """Compute the logits if only the class token and the other patches pass through the blocks of timm's ViT."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(images))
        kept = [0, *(1 + patch for patch in range(tokens.shape[1] - 1) if patch not in gone)]
        tokens = tokens[:, kept]
        for block in model.blocks:
            tokens = block(tokens)
        logits: Tensor = model.forward_head(model.norm(tokens))
        return logits


@pytest.mark.parametrize("size", [1, 2, 3])
def test_it_is_the_mean_drop_over_the_blocks_that_contain_a_patch(
    model: nn.Module, images: Tensor, size: int
) -> None:
    # drop(B) = f(all) - f(all without B);  m(p) = mean over the blocks B with p in B of drop(B)
    classes = [1, 3]
    whole = logits_without(model, images, set())
    drops: dict[int, list[Tensor]] = {patch: [] for patch in range(16)}
    for top in range(4 - size + 1):
        for left in range(4 - size + 1):
            block = {4 * row + col for row in range(top, top + size) for col in range(left, left + size)}
            drop = whole - logits_without(model, images, block)
            for patch in block:
                drops[patch].append(torch.stack([drop[0, classes[0]], drop[1, classes[1]]]))
    expected = torch.stack([sum(parts) / len(parts) for parts in drops.values()], 1)  # type: ignore[arg-type]
    found = vi.TokenAblation(model, size=size).patch_map(images, classes)
    torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-12)


def test_the_planted_patch_by_hand() -> None:
    # Uniform attention to 17 tokens: the logit is 1/17, 0 without the red patch, and 1/16 without another.
    expected = torch.full((1, 4, 4), 1 / 17 - 1 / 16)
    expected[0][PATCH] = 1 / 17
    torch.testing.assert_close(vi.TokenAblation(planted_model()).patch_map(planted_image(), 1), expected)


def test_the_predicted_class_is_that_of_the_image(model: nn.Module, images: Tensor) -> None:
    predicted = model(images).argmax(1)
    explainer = vi.TokenAblation(model)
    assert torch.equal(explainer.patch_map(images, "pred"), explainer.patch_map(images, predicted))


def test_masks_of_one_pass_do_not_change_the_map(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Targets for each image, so that the rows of a pass must be matched to them.
    many = torch.cat([images, images + 1])
    together = vi.TokenAblation(model).patch_map(many, [0, 1, 2, 3])
    monkeypatch.setattr("vit_interactions.explain.masked_scores.ROWS", 1)
    torch.testing.assert_close(vi.TokenAblation(model).patch_map(many, [0, 1, 2, 3]), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_sizes_that_are_no_count(size: Any) -> None:
    with pytest.raises(ValueError, match="`size` must be an int >= 1"):
        vi.TokenAblation(planted_model(), size=size)


@pytest.mark.parametrize("size", [4, 5])
def test_a_block_must_leave_a_patch(model: nn.Module, images: Tensor, size: int) -> None:
    with pytest.raises(ValueError, match=f"`size` must leave a patch of the 4 x 4 patches, got {size}"):
        vi.TokenAblation(model, size=size).patch_map(images, 1)


def test_scores_that_are_not_finite(model: nn.Module, images: Tensor) -> None:
    def score(output: Tensor) -> Tensor:
        return output[:, 1] / (output[:, 1] == whole).all()

    whole = model(images)[:, 1]
    with pytest.raises(ValueError, match="the model's output for masked tokens is not finite"):
        vi.TokenAblation(model).patch_map(images, score)
