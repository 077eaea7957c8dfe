"""Test that the target decides layers and readout, for models with several outputs or readouts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import tiny
from tests.helpers.twins import SIDE, Outer, images, vit
from vit_interactions import UnsupportedModelError
from vit_interactions.attention.probing.scored import probe_score
from vit_interactions.explain.targets import select_target

METHODS = ("attention_rollout", "generic_attention", "interaction_uncertainty", "attention_guided_cam")


def tokens_of(after: Any = None, depth: int = 3) -> Outer:
    """Build a model that returns its last tokens (batch, 17, 32), or a function of them."""
    return Outer(vit(num_classes=0, global_pool="", depth=depth), after=after).eval()


class Stages(nn.Module):
    """The class tokens after the first and the last layer, in one of several containers."""

    def __init__(self, pack: Any) -> None:
        """Take a function of the two."""
        super().__init__()
        self.vit, self.pack = vit(num_classes=0, global_pool=""), pack

    def forward(self, x: Tensor) -> Any:
        """Run all layers."""
        x = self.vit._pos_embed(self.vit.patch_embed(x))
        states = []
        for block in self.vit.blocks:
            x = block(x)
            states.append(self.vit.norm(x))
        return self.pack(states[0][:, 0], states[-1][:, 1:].mean(1))


def assert_same_maps(model: nn.Module, target: Any, twin: nn.Module, twin_target: Any = 1) -> None:
    """Compare the maps of a score with those of a model that returns this score's tensor only."""
    for name in METHODS:
        found = vi.EXPLAINERS[name](model).patch_map(images(), target)
        wanted = vi.EXPLAINERS[name](twin).patch_map(images(), twin_target)
        assert wanted.abs().max() > 0 or name == "interaction_uncertainty"  # 0 of one layer
        assert (found - wanted).abs().max() <= 1e-9 * wanted.abs().max(), name


PACKS: dict[str, tuple[Any, Any, Any]] = {
    "tuple": (lambda early, late: (early, late), lambda o: o[0][:, 1], lambda o: o[1][:, 1]),
    "list": (lambda early, late: [late, early], lambda o: o[1][:, 1], lambda o: o[0][:, 1]),
    "dict": (
        lambda early, late: {"early": early, "deep": [{"late": late}]},
        lambda o: o["early"][:, 1],
        lambda o: o["deep"][0]["late"][:, 1],
    ),
    "one tensor": (
        lambda early, late: torch.cat((early, late), 1),
        lambda o: o[:, 1],
        lambda o: o[:, 33],
    ),
}


@pytest.mark.filterwarnings("ignore::vit_interactions.explain.zero_map.ZeroMapWarning")
@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("which", [0, 1])
def test_layers_and_readout_are_those_of_the_score(name: str, which: int) -> None:
    pack, *targets = PACKS[name]
    twin = Stages(lambda *both: both[which]).eval()
    assert_same_maps(Stages(pack).eval(), targets[which], twin)


def test_a_backbone_of_transformers_is_explained_at_the_stage_that_is_asked_for() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        initializer_range=0.15,
        out_features=["stage1", "stage3"],
    )
    model = transformers.Dinov2Backbone(config).double().eval()
    last = Outer(model, after=lambda o: o.feature_maps[-1].mean((2, 3))).eval()
    assert_same_maps(model, lambda o: o.feature_maps[-1][:, 1].mean((1, 2)), last)


def test_classes_that_read_other_tokens_have_readouts_of_their_own() -> None:
    model = tokens_of(lambda x: torch.cat((x[:, 0, :5], x[:, 1:, 5:].mean(1)), 1))
    assert not vi.probe(model, images()).alike
    assert_same_maps(model, 3, tokens_of(lambda x: x[:, 0]), 3)
    assert_same_maps(model, 7, tokens_of(lambda x: x[:, 1:].mean(1)), 7)
    assert_same_maps(model, [3, 4], tokens_of(lambda x: x[:, 0]), [3, 4])
    with pytest.raises(UnsupportedModelError, match=r"class token.*mean of the patches.*one at a time"):
        vi.AttentionRollout(model).patch_map(images(), [3, 7])


def test_a_score_of_one_patch_is_read_from_this_patch() -> None:
    model = tokens_of(lambda x: x[:, 1:].mT.unflatten(2, (4, 4)))

    def target(output: Tensor) -> Tensor:
        return output[:, 3, 2, 1]

    seen = probe_score(model, images(), None, target).probe
    assert str(seen.layout).endswith("read from: the patch in row 2, column 1")
    weights = seen.layout.readout_weights()
    assert torch.equal(weights, torch.eye(17)[[1 + 2 * 4 + 1]])
    # The same patch as the class token's twin: a pass by hand.
    with vi.record_attention(model) as record, torch.no_grad():
        model(images())
    expected = weights.double().unsqueeze(0)
    for layer in (2, 1, 0):
        mixed = record.attention(layer).mean(1) + torch.eye(17)
        expected = expected @ (mixed / mixed.sum(-1, keepdim=True))
    found = vi.AttentionRollout(model).patch_map(images(), target)
    torch.testing.assert_close(found.flatten(1), expected[:, 0, 1:].to(found))


@pytest.mark.parametrize(
    "weigh",
    [
        lambda x: 0.25 * x[:, 0] + 0.75 * x[:, 1:].mean(1),
        lambda x: x[:, 3] + x[:, 9],
        lambda x: (x * torch.arange(17)[None, :, None]).sum(1),
    ],
)
def test_fixed_weights_are_observed(weigh: Any) -> None:
    weights = weigh(torch.eye(17).unsqueeze(0).double())[0]
    found = vi.probe(tokens_of(weigh), images()).layout.readout_weights()
    torch.testing.assert_close(found[0], (weights / weights.sum()).to(found), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "weigh",
    [
        lambda x: x.gather(1, x[..., :1].topk(3, 1).indices.expand(-1, -1, 32)).mean(1),
        lambda x: (x * x[..., :1].sigmoid().detach()).sum(1),
        lambda x: x.amax(1),
    ],
)
def test_weights_that_depend_on_the_image_are_refused(weigh: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"do not have fixed weights|gradient is cut"):
        vi.AttentionRollout(tokens_of(weigh)).patch_map(images())


def test_a_target_whose_part_of_the_output_depends_on_the_image_is_refused() -> None:
    explainer = vi.AttentionRollout(tokens_of())
    with pytest.raises(UnsupportedModelError, match="`target` must take"):
        explainer.patch_map(images(), lambda o: o[:, 1:, 3].amax(1))
    with pytest.raises(UnsupportedModelError, match="`target` must be differentiable"):
        explainer.patch_map(images(), lambda o: o.flatten(1).argmax(1).double())


def test_a_target_made_for_the_given_images_is_observed_on_them() -> None:
    model = tokens_of()
    own = model(images()).detach()

    def similarity(output: Tensor) -> Tensor:
        if not torch.equal(output, own):
            raise ValueError("these are other images")
        return output[:, 0, 1]

    assert_same_maps(model, similarity, tokens_of(lambda x: x[:, 0]))


def test_faults_of_a_target_are_its_own() -> None:
    with pytest.raises(KeyError, match="scores"):
        vi.AttentionRollout(tokens_of(lambda x: {"a": x[:, 0], "b": x[:, 1]})).patch_map(
            images(), lambda o: o["scores"][:, 1]
        )


def test_each_kind_of_score_is_probed_once() -> None:
    model = tokens_of(lambda x: {"cls": x[:, 0], "mean": x[:, 1:].mean(1)})
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    explainer = vi.AttentionRollout(model)
    for channel in range(4):
        explainer.patch_map(images(), lambda o, channel=channel: o["mean"][:, channel])
        count, passes[:] = len(passes), []
        assert count == (4 if channel == 0 else 1)  # the probe, its output, the tensor, the images


def test_one_tensor_that_is_read_alike_costs_no_look_at_the_target() -> None:
    asked: list[int] = []

    def target(output: Tensor) -> Tensor:
        asked.append(len(output))
        return output[:, 1]

    model = vit()
    assert vi.probe(model, images()).alike
    vi.GenericAttention(model).patch_map(images(), target)
    assert asked == [2]


def test_all_classes_of_a_distilled_model_are_read_alike() -> None:
    import timm

    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, depth=2).eval()
    assert vi.probe(model, (64, 64)).alike
    assert vi.probe(model, (64, 64)).layout.readout == "distilled"
    apart = Outer(
        vit(num_classes=0, global_pool="", reg_tokens=1), after=lambda x: torch.cat((x[:, 0], x[:, 1]), 1)
    )
    assert not vi.probe(apart, images()).alike


def test_select_target_is_what_scores_are_made_of() -> None:
    model = tokens_of(lambda x: (x[:, 0], x[:, 1:].mean(1)))
    with pytest.raises(ValueError, match="`target` must be a function of the output"):
        probe_score(model, images(), None, lambda output: select_target(output, 1, 2))


class Tokens(nn.Module):
    """A ViT that returns its classes beside all of its tokens, or what is read from them."""

    def __init__(self, inner: Any, read: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take the ViT, and what is read from its tokens."""
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, x: Tensor) -> Any:
        """Run the ViT once."""
        tokens = self.inner.forward_features(x)
        return self.read(tokens) if self.read else {"logits": self.inner.forward_head(tokens), "tokens": tokens}


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "class token": lambda tokens: tokens[:, 0],
    "mean of the patches": lambda tokens: tokens[:, 1:].mean(1),
    "mean of all": lambda tokens: tokens.mean(1),
    "one patch": lambda tokens: tokens[:, 5],
    "weights of places": lambda tokens: tokens.mT @ torch.arange(17.0).double(),
}


@pytest.mark.parametrize(
    "name", ["generic_attention", "gmar", "gradient_rollout", "attention_guided_cam", "attention_rollout"]
)
@pytest.mark.parametrize("read", READ)
def test_a_score_of_tokens_is_explained_like_a_model_that_returns_it(name: str, read: str) -> None:
    method = vi.EXPLAINERS[name]
    wanted = method(Tokens(vit(), READ[read])).patch_map(images(), 3)
    found = method(Tokens(vit())).patch_map(images(), lambda output: READ[read](output["tokens"])[:, 3])
    assert wanted.any()
    torch.testing.assert_close(found, wanted)


def test_as_many_images_as_tokens_are_not_taken_for_tokens() -> None:
    explainer = vi.GenericAttention(Tokens(vit()))
    target = lambda output: output["tokens"][:, 1:].mean(1)[:, 3]  # noqa: E731
    together = explainer.patch_map(images(17), target)
    torch.testing.assert_close(together[:1], explainer.patch_map(images(17)[:1], target))


@pytest.mark.parametrize("inner", [vit, lambda: tiny("vit_base_patch16_siglip_224", img_size=SIDE).double()])
def test_the_main_output_keeps_its_readout(inner: Any) -> None:
    wanted = vi.GenericAttention(inner()).patch_map(images(), 1)
    found = vi.GenericAttention(Tokens(inner())).patch_map(images(), lambda output: output["logits"][:, 1])
    torch.testing.assert_close(found, wanted)


def test_methods_that_read_no_token_take_scores_without_fixed_shares() -> None:
    target = lambda output: output["tokens"][:, 1:, 3].logsumexp(1)  # noqa: E731
    with pytest.raises(vi.UnsupportedModelError, match="`target` must take the same part"):
        vi.GenericAttention(Tokens(vit())).patch_map(images(1), target)
    assert vi.AttnLRP(Tokens(vit())).patch_map(images(), lambda output: output["tokens"][:, 1:, 3].amax(1)).any()


@pytest.mark.parametrize("token", [0, 2])
def test_a_register_token_may_be_asked_for(token: int) -> None:
    model = tiny("vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=16).double()
    wanted = Tokens(model, lambda tokens: tokens[:, token])
    assert_same_maps(Tokens(model), lambda output: output["tokens"][:, token, 3], wanted, 3)


def test_a_pooling_head_that_the_score_goes_round_is_not_its_readout() -> None:
    model = tiny("vit_base_patch16_siglip_224", img_size=SIDE).double()
    wanted = vi.GenericAttention(Tokens(model, lambda tokens: tokens.mean(1))).patch_map(images(), 3)
    found = vi.GenericAttention(Tokens(model)).patch_map(images(), lambda output: output["tokens"].mean(1)[:, 3])
    torch.testing.assert_close(found, wanted)
    with pytest.raises(vi.UnsupportedModelError, match="do not have fixed weights"):
        vi.GenericAttention(Tokens(model)).patch_map(
            images(), lambda output: output["tokens"].mean(1)[:, 3] + output["logits"][:, 1]
        )
