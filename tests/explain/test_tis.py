"""TIS: a slow loop over masks that leaves tokens out, its sum by hand, and its seed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.planted import PATCH, planted_image, planted_model
from vit_interactions.explain.tis import probability
from vit_interactions.functional.token_masks import sample_masks


def channels_of(model: Any, image: Tensor) -> Tensor:
    """Compute the outputs of all blocks of timm's ViT without the class token, (patches, channels of all blocks)."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(image))
        outputs = []
        for block in model.blocks:
            tokens = block(tokens)
            outputs.append(tokens[0, 1:])
    return torch.cat(outputs, -1)


def probability_with(model: Any, image: Tensor, shown: list[int], target: int) -> float:
    """Compute the class's probability if only the class token and some patches pass through timm's ViT."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(image))[:, [0, *(1 + patch for patch in shown)]]
        for block in model.blocks:
            tokens = block(tokens)
        return float(model.forward_head(model.norm(tokens)).softmax(1)[0, target])


@pytest.mark.parametrize(("masks", "ratio", "shows"), [(20, 0.5, 8), (7, 0.3, 4), (1000, 0.9, 14)])
def test_it_is_the_mean_probability_of_the_masks_that_show_a_patch(
    model: nn.Module, images: Tensor, masks: int, ratio: float, shows: int
) -> None:
    # m(p) = Σ_m s_m M_m(p) / Σ_m M_m(p),  s_m the probability with the tokens of M_m and the class token
    expected = []
    for image, target in zip(images, (1, 3), strict=True):
        chosen = sample_masks(channels_of(model, image[None]), masks, ratio, seed=5)
        assert len(chosen) == min(masks, 96)  # 3 blocks of 32 channels
        assert (chosen.sum(1) == shows).all()
        sums, counts, scores = [0.0] * 16, [0] * 16, []
        for mask in chosen:
            shown = mask.nonzero().flatten().tolist()
            scores.append(probability_with(model, image[None], shown, target))
            for patch in shown:
                sums[patch] += scores[-1]
                counts[patch] += 1
        mean = sum(scores) / len(scores)
        expected.append([total / count if count else mean for total, count in zip(sums, counts, strict=True)])
    found = vi.TIS(model, masks=masks, ratio=ratio, seed=5).patch_map(images, [1, 3])
    torch.testing.assert_close(found.flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_planted_patch_comes_first() -> None:
    found = vi.TIS(planted_model(), masks=64).patch_map(planted_image(), 1)[0]
    assert found[PATCH] == found.max()
    # Uniform attention to 9 of 17 tokens: a logit of 1/9 with the red patch, and 0 without.
    assert float(found[PATCH]) == pytest.approx(float(torch.tensor(1 / 9).sigmoid()), abs=1e-6)


def test_the_seed_decides(model: nn.Module, images: Tensor) -> None:
    maps = [vi.TIS(model, masks=9, seed=seed).patch_map(images, 1) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    alone = torch.cat([vi.TIS(model, masks=9).patch_map(image[None], 1) for image in images])
    torch.testing.assert_close(alone, maps[0], rtol=0, atol=1e-12)


def test_probabilities() -> None:
    output = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert probability(output, [1, 0], 2).tolist() == pytest.approx(torch.tensor([1.0, 2.0]).sigmoid().tolist())
    assert probability(output[:, :1], 0, 2).tolist() == pytest.approx(output[:, 0].sigmoid().tolist())
    assert probability(output, lambda scores: scores[:, 0], 2).tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "`masks` must be an int >= 1, got 0"),
        ({"ratio": 1.5}, r"`ratio` must lie in \[0, 1\], got 1.5"),
        ({"ratio": 0.01}, "`ratio` must be at least 1/16, one of the 16 patches, got 0.01"),
    ],
)
def test_options_outside_their_range(
    model: nn.Module, images: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        vi.TIS(model, **options).patch_map(images, 1)
