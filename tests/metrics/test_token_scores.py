"""Scores of models whose patches are masked in attention."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import FAMILIES, Family
from tests.helpers.token_cases import MEANS, case_of
from vit_interactions.attention import UnsupportedModelError
from vit_interactions.metrics.token_scores import token_scores

MASKABLE = ("vit", "distilled", "dinov2_reg4", "hybrid", "rope_mixed", "non_square", "dynamic", "padded")

MAPS = ("siglip", "test_vit3", "naflex_map", "pe_map")


def some_shown(grid: tuple[int, int], count: int = 5, least: int = 0) -> Tensor:
    """Return subsets of patches: all, random ones, and the first `least` patches."""
    shown = torch.rand(count, *grid, generator=torch.Generator().manual_seed(0)) > 0.5
    shown[0] = True
    shown[1] = False
    shown[1].view(-1)[:least] = True
    return shown


def dropped(model: Any, images: Tensor, shown: Tensor, target: int) -> float:
    """Return the probability if only prefix tokens and shown patches pass through the blocks of timm's ViT."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(images))
        prefix = tokens.shape[1] - shown.numel()
        kept = torch.cat([torch.arange(prefix), prefix + shown.flatten().nonzero().flatten()])
        tokens = model.norm_pre(tokens[:, kept])
        for block in model.blocks:
            tokens = block(tokens)
        return float(model.forward_head(model.norm(tokens)).softmax(1)[0, target])


AVERAGED: dict[str, dict[str, Any]] = {
    "reg4_gap": {},
    "parallel_scaling": {},
    "vit": {"global_pool": "avg"},
    "dinov2_reg4": {"global_pool": "avg", "pool_include_prefix": True},  # its prefix tokens are averaged too
    "non_square": {"global_pool": "avg", "fc_norm": False},
}


@pytest.mark.parametrize("name", ["vit", "distilled", "dinov2_reg4", "non_square", "test_vit3"])
def test_masking_tokens_equals_dropping_them(name: str) -> None:
    check_dropped(FAMILIES[name])


@pytest.mark.parametrize("name", AVERAGED)
def test_masking_averaged_tokens_equals_dropping_them(name: str) -> None:
    check_dropped(FAMILIES[name], least=1, **AVERAGED[name])


def check_dropped(family: Family, least: int = 0, **options: Any) -> None:
    model, images = family.build(**options).double(), family.images().double()
    shown = some_shown(family.grid, least=least)
    scores = token_scores(case_of(model, images), shown)
    expected = [dropped(model, images[:1], one, 2) for one in shown]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert len({round(value, 4) for value in expected}) == len(expected)


@pytest.mark.parametrize("name", [*MASKABLE, *MAPS, *MEANS])
def test_masked_patches_do_not_affect_the_output(name: str) -> None:
    family = FAMILIES[name]
    model = family.build().double()
    images = family.images().double()
    least = 0 if family.prefix and name not in ("naflex_map", "pe_map") else 1
    shown = some_shown(family.grid, least=least)
    scores = token_scores(case_of(model, images), shown)
    assert float(scores.max() / scores.min()) > 1.01
    with torch.no_grad():
        whole = model(images[:1]).softmax(1)[0, 2]
    assert float(scores[0]) == pytest.approx(float(whole), abs=1e-10)
    if name == "hybrid":  # its convolutions mix neighboring patches before there are tokens
        return
    height, width = (extent // count for extent, count in zip(family.extent, family.grid, strict=True))
    for index in range(1, len(shown)):
        repainted = images.clone()
        for row, col in (~shown[index]).nonzero().tolist():
            repainted[..., row * height : (row + 1) * height, col * width : (col + 1) * width] = 3.0
        again = token_scores(case_of(model, repainted), shown[index : index + 1])
        assert float(again) == pytest.approx(float(scores[index]), abs=1e-10), index


def test_the_average_of_no_token_is_0() -> None:
    """Not even the tokens of a model without prefix tokens matter then: the head gets zeros."""
    family = FAMILIES["relpos"]
    model: Any = family.build().double()
    scores = token_scores(case_of(model, family.images().double()), torch.zeros(1, *family.grid, dtype=torch.bool))
    with torch.no_grad():
        expected = model.head(model.fc_norm(torch.zeros(1, 32, dtype=torch.float64))).softmax(1)[0, 2]
    assert float(scores) == pytest.approx(float(expected), abs=1e-12)


class TwoWays(nn.Module):
    """A model with an average of tokens, and a second way from the tokens to the output."""

    def __init__(self, second: Any) -> None:
        super().__init__()
        self.vit, self.second = FAMILIES["reg4_gap"].build(), second

    def forward(self, images: Tensor) -> Any:
        vit: Any = self.vit
        tokens = vit.forward_features(images)[:, 4:]
        return vit.head(vit.fc_norm(self.second(tokens)))


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (lambda x: x.mean(1) + x.amax(1), "averages them 1 times .*reads tokens that are masked"),
        (lambda x: x.sum(1) / x.shape[1], "averages them 0 times .*reads tokens that are masked"),
        (
            lambda x: x.mean(1) + 0.1 * (x + 1).mean(1),
            "averages them 2 times after its last attention. Remove pixels",
        ),
        (lambda x: x.amax(1), "averages them 0 times .*reads tokens that are masked"),
    ],
    ids=["and the maximum", "as a sum", "twice", "maximum"],
)
def test_tokens_that_are_read_otherwise_raise(second: Any, reason: str) -> None:
    images = FAMILIES["reg4_gap"].images()
    with pytest.raises(UnsupportedModelError, match=f"TwoWays .*{reason}"):
        token_scores(case_of(TwoWays(second).eval(), images), some_shown((4, 4)))


def test_every_family_is_listed() -> None:
    assert {*MASKABLE, *MAPS, *MEANS, "winft", "winft_inf"} == set(FAMILIES)


def test_torchvision_models() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    check_repainted(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), 8)


def test_transformers_models() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    config.num_labels = 5
    model = transformers.ViTForImageClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    check_repainted(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), 8)


@pytest.mark.parametrize("kind", ["Dinov2", "Siglip"])
def test_transformers_models_that_average_tokens(kind: str) -> None:
    """DINOv2 joins the class token and the mean; SigLIP also computes a pooling head, whose output is not used."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    if kind == "Dinov2":
        config = transformers.Dinov2Config(**sizes)
    else:
        config = transformers.SiglipConfig(vision_config={**sizes, "intermediate_size": 32})
    config.num_labels = 5
    model = getattr(transformers, f"{kind}ForImageClassification")(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    check_repainted(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), 8)


def check_repainted(model: nn.Module, image: Tensor, size: int) -> None:
    """Check that the content of a masked patch does not matter, and that of a shown patch does."""
    shown = some_shown((32 // size, 32 // size))
    scores = token_scores(case_of(model, image), shown)
    assert float(scores.max() - scores.min()) > 1e-3
    (row, col), (other_row, other_col) = (~shown[2]).nonzero()[0].tolist(), shown[2].nonzero()[0].tolist()
    for place, same in (((row, col), True), ((other_row, other_col), False)):
        repainted = image.clone()
        repainted[..., place[0] * size : (place[0] + 1) * size, place[1] * size : (place[1] + 1) * size] = 3.0
        again = float(token_scores(case_of(model, repainted), shown[2:3]))
        assert (abs(again - float(scores[2])) < 1e-10) is same
