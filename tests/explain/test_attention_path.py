"""Tests of properties of the score that TAM, both variants of Beyond Intuition, and LeGrad share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.families import tiny
from vit_interactions.explain import attention_path
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.beyond_intuition import BeyondIntuition
from vit_interactions.explain.legrad import LeGrad
from vit_interactions.explain.transition_attention import TransitionAttention

Make = Callable[[nn.Module], Explainer]


METHODS: dict[str, Make] = {
    "tam": lambda model: TransitionAttention(model, steps=3, start=0),
    "bi head": lambda model: BeyondIntuition(model, steps=3, start=1),
    "bi token": lambda model: BeyondIntuition(model, variant="token", steps=3, start=1),
    "legrad": LeGrad,
    "legrad model": lambda model: LeGrad(model, pool="model", layers="all"),
}


every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def vit(**options: Any) -> nn.Module:
    """Build a ViT of 3 x 3 patches, two blocks, two heads."""
    return tiny("vit_tiny_patch16_224", **{"img_size": 48, **options})


def images(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def differs(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max() > 1e-2 * expected.abs().max())


@every_method
def test_proportional_to_the_score_whatever_its_offset(make: Make) -> None:
    model, x = vit().double(), images().double()
    plain = make(model).patch_map(x, target=1)
    assert plain.min() >= 0
    with torch.no_grad():
        model.head.weight *= 3
        model.head.bias *= 3
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.bias += 10
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.weight *= -1 / 3
    assert differs(make(model).patch_map(x, target=1), plain)


@every_method
def test_classes_and_heads_weights_matter(make: Make) -> None:
    model, x = vit(), images()
    assert differs(make(model).patch_map(x, target=1), make(model).patch_map(x, target=2))
    before = make(model).patch_map(x, target=1)
    nn.init.normal_(model.head.weight)
    assert differs(make(model).patch_map(x, target=1), before)


@every_method
def test_a_target_is_needed(make: Make) -> None:
    with pytest.raises(ValueError, match="explains one score of the output"):
        make(vit()).patch_map(images())
    with pytest.raises(IndexError, match="for 5 classes, got 5"):
        make(vit()).patch_map(images(), target=5)


along_a_path = pytest.mark.parametrize("make", [METHODS[name] for name in ("tam", "bi head", "bi token")])


class Scaled(nn.Module):
    """A classifier of images times a factor."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, factor: Tensor) -> Tensor:
        """Classify (batch, channels, height, width) times (batch, 1, 1, 1)."""
        result: Tensor = self.model(images * factor)
        return result


class Named(nn.Module):
    """A classifier whose output is a dict."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images."""
        return {"logits": self.model(images)}


@along_a_path
@pytest.mark.parametrize("target", [1, [3, 0], "pred", lambda output: output[range(2), [3, 0]]])
def test_points_that_pass_together_give_the_map_of_points_one_by_one(
    make: Make, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, maps, passed = vit().double(), images().double(), [], []
    model.register_forward_hook(lambda module, given, output: passed.append(len(given[0])))
    make(model).patch_map(x, target=target)  # with its probe
    queries = 2 * 10 * model.embed_dim  # of two images
    for budget, sizes in (
        (2**20, [2, 4]),
        (2 * queries, [2, 4]),
        (2 * queries - 1, [2, 2, 2]),
        (1, [2, 2, 2]),
    ):
        passed.clear()
        monkeypatch.setattr(attention_path, "CPU_POINTS", budget)
        maps.append(make(model).patch_map(x, target=target))
        assert passed == sizes
        assert_near(maps[-1], maps[0], 1e-12)


@along_a_path
def test_further_arguments_and_outputs_of_several_tensors_pass_point_by_point(make: Make) -> None:
    plain, x, passed = vit().double(), images().double(), []
    expected = make(plain).patch_map(x, target=1)
    plain.register_forward_hook(lambda module, given, output: passed.append(len(given[0])))
    factor = torch.tensor([2.0, 0.5]).double().view(2, 1, 1, 1)
    found = make(Scaled(plain)).patch_map(x / factor, target=1, additional_forward_args=factor)
    assert_near(found, expected, 1e-12)
    found = make(Named(plain)).patch_map(x, target=lambda output: output["logits"][:, 1])
    assert_near(found, expected, 1e-12)
    assert set(passed) == {1, 2}  # 1 is the probe


@along_a_path
@pytest.mark.parametrize("trained", [True, False])
def test_the_graph_of_the_path_begins_at_the_last_attention(make: Make, trained: bool) -> None:
    model, x, graphs = vit().requires_grad_(trained), images(), []
    for layer in (model.blocks[0], model.blocks[-1].attn.qkv, model.blocks[-1].attn.proj, model.head):
        layer.register_forward_hook(lambda module, given, output: graphs.append(output.requires_grad))
    make(model).patch_map(x, target=1)  # with its probe
    graphs.clear()
    make(model).patch_map(x, target=1)
    assert graphs == [True] * 4 + [False, False, True, True]


class HeadByHead(nn.Module):
    """Attention that uses the output of each head before it computes the next."""

    def __init__(self, attn: Any) -> None:
        """Take the weights of timm's attention."""
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attend (batch, tokens, channels)."""
        heads, width = self.attn.num_heads, self.attn.head_dim
        query, key, value = self.attn.qkv(x).unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
        results = []
        for head in range(heads):
            one = slice(head, head + 1)
            z = F.scaled_dot_product_attention(query[:, one], key[:, one], value[:, one])
            results.append(z.squeeze(1))
        result: Tensor = self.attn.proj(torch.cat(results, -1))
        return result


@pytest.mark.parametrize("make", [METHODS["tam"], METHODS["bi head"]])
def test_a_layer_of_several_calls_keeps_the_graph_of_each(make: Make) -> None:
    model, x = vit().double(), images().double()
    expected = make(model).patch_map(x, target=1)
    for block in model.blocks:
        block.attn = HeadByHead(block.attn)
    assert_near(make(model).patch_map(x, target=1), expected, 1e-12)
