"""Tests of the probe's forward pass: random numbers, missing gradients, guessed channels and unusual outputs."""

import random
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.twins import SIDE, Outer, assert_twins, images, vit
from vit_interactions import TokenLayout, UnsupportedModelError
from vit_interactions.attention.errors import UnobservableModelError

COINS: dict[str, Any] = {
    "torch": lambda: torch.rand(1).item() < 0.5,
    "python": lambda: random.random() < 0.5,
    "numpy": lambda: numpy.random.rand() < 0.5,
}


@pytest.mark.parametrize("name", COINS)
def test_a_random_flip_is_refused(name: str) -> None:
    model = Outer(vit(), before=lambda x: x.flip(-1) if COINS[name]() else x).eval()
    with pytest.raises(UnsupportedModelError, match="Outer draws random numbers in evaluation mode"):
        vi.AttentionRollout(model).patch_map(images())


def test_shuffled_tokens_are_refused_and_explained_without_the_shuffle() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=16,
        mask_ratio=0.0,
        initializer_range=0.15,
    )
    model = transformers.ViTMAEModel(config).double().eval()

    def target(output: Any) -> Tensor:
        return output.last_hidden_state[:, 0, 3]

    state = torch.get_rng_state()
    for explainer in (vi.AttentionRollout(model), vi.GenericAttention(model)):
        with pytest.raises(UnsupportedModelError, match=r"draws random numbers.*`noise` in ViTMAE"):
            explainer.patch_map(images(), target)
    assert torch.equal(torch.get_rng_state(), state)
    orders = [torch.arange(16.0), torch.arange(16.0).flip(0)]
    maps = []
    for order in orders:
        model.forward_noise = order.double().expand(2, -1)
        fixed = Fixed(model)
        maps.append(vi.GenericAttention(fixed.eval()).patch_map(images(), 3))
    assert maps[0].abs().max() > 0
    torch.testing.assert_close(*maps)


class Fixed(nn.Module):
    """A masked autoencoder whose order of tokens is given."""

    def __init__(self, model: nn.Module) -> None:
        """Take the model, with the numbers that order its tokens."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the class token."""
        return self.model(x, noise=self.model.forward_noise[: len(x)]).last_hidden_state[:, 0]


def test_random_numbers_that_move_nothing_are_no_matter() -> None:
    model = Outer(vit(), before=lambda x: x + 0 * torch.rand_like(x))
    assert_twins(model, vit())
    assert vi.probe(model, images()).layout == vi.probe(vit(), images()).layout


class Own(nn.Module):
    """A ViT without timm's attributes, whose gradient may be cut."""

    def __init__(self, before: Any = None, cut: bool = False) -> None:
        """Take what is done to the image, and whether gradients are off."""
        super().__init__()
        self.inner, self.cut = nn.ModuleList([vit()]), cut
        self.before = before or (lambda x: x)
        for name in ("patch_embed", "num_prefix_tokens"):
            setattr(self.inner[0], f"own_{name}", getattr(self.inner[0], name))

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        own = self.inner[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cut):
            x = own._pos_embed(own.own_patch_embed(self.before(x)))
            return own.forward_head(own.norm(own.blocks(x)))


def own(**options: Any) -> Own:
    """Build it without the attributes that declare a layout."""
    model = Own(**options).eval()
    del model.inner[0].patch_embed
    del model.inner[0].num_prefix_tokens
    model.inner[0].num_prefix_tokens = 1.0  # no int: nothing that declares
    return model


LAYOUT = TokenLayout(prefix=1, rows=4, cols=4, readout="token", extent=(SIDE, SIDE))
UNSEEN: dict[str, Any] = {
    "no gradients": {"cut": True},
    "rounded": {"before": lambda x: (x * 255).round() / 255},
}


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
@pytest.mark.parametrize("name", UNSEEN)
def test_a_stated_layout_holds_where_nothing_is_seen(name: str) -> None:
    model = own(**UNSEEN[name])
    for _ in range(2):  # the error is cached until a layout is stated
        with pytest.raises(
            UnobservableModelError, match=r"vi\.state_layout.*such as captum's occlusion\.$"
        ) as error:
            vi.probe(model, images())
        assert "attn_lrp" not in str(error.value)
        assert "gradcam" not in str(error.value)
    vi.state_layout(model, LAYOUT)
    assert vi.probe(model, images()).layout == LAYOUT
    twin = Outer(vit(), before=UNSEEN[name].get("before"))
    vi.state_layout(twin, LAYOUT) if name == "rounded" else None
    expected = vi.AttentionRollout(twin).patch_map(images())
    torch.testing.assert_close(vi.AttentionRollout(model).patch_map(images()), expected)
    vi.state_layout(model, TokenLayout(prefix=1, rows=2, cols=4, readout="token", extent=(SIDE, SIDE)))
    with pytest.raises(UnsupportedModelError, match=r"attends among 17 tokens.*assumed has 9"):
        vi.AttentionRollout(model).patch_map(images())


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
def test_a_missing_gradient_says_what_works() -> None:
    with pytest.raises(UnsupportedModelError, match=r"torch\.no_grad.*occlusion.*vi\.state_layout"):
        vi.EXPLAINERS["generic_attention"](Outer(vit(), after=torch.detach).eval()).patch_map(images(), 1)


class Cuts(nn.Module):
    """A patch embedding by a linear layer, with a depthwise convolution behind."""

    def __init__(self) -> None:
        """Begin with the linear layer."""
        super().__init__()
        self.embed, self.conv = nn.Linear(3 * 256, 32), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output without attention."""
        x = F.unfold(x, 16, stride=16).mT
        return self.fc(self.conv(self.embed(x).mT.unflatten(2, (4, 4))).mean((2, 3)))


def test_channels_are_those_of_the_stem() -> None:
    with pytest.raises(UnsupportedModelError, match="made no call of"):  # it ran
        vi.probe(Cuts(), (SIDE, SIDE))
    assert vi.probe(vit(in_chans=5), (SIDE, SIDE)).layout.grid == (4, 4)
    gray = nn.Sequential(nn.Conv2d(1, 3, 1), vit().float())
    assert vi.probe(gray, (SIDE, SIDE)).layout.grid == (4, 4)


def test_guessed_channels_that_do_not_fit_are_told() -> None:
    model = Outer(vit(), before=lambda x: x[:, :2] @ torch.ones(3)).eval()
    with pytest.raises(ValueError, match="3 channels were guessed; pass a tensor of images"):
        vi.probe(model, (SIDE, SIDE))
    with pytest.raises(ValueError, match="additional_forward_args") as error:
        vi.probe(model, images())
    assert "guessed" not in str(error.value)


def test_outputs_and_arguments_that_cannot_be_read_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"floating-point tensor.*got a tensor of torch\.int64"):
        vi.probe(Outer(vit(), after=lambda x: x.argmax(1)), images())
    with pytest.raises(ValueError, match="got one number for the whole batch"):
        vi.GenericAttention(Outer(vit(), after=torch.mean)).patch_map(images(), 0)
    with pytest.raises(TypeError, match=r"`image_size` must be \(height, width\), got a tensor of shape \(2, 3"):
        vi.token_layout(vit(), images())  # type: ignore[arg-type]


def test_dropped_patches_are_counted() -> None:
    class Drops(Outer):
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            vit = self.vit
            x = vit._pos_embed(vit.patch_embed(x))[:, :-2]
            return vit.forward_head(vit.norm(vit.blocks(x)))

    with pytest.raises(UnsupportedModelError, match="14 tokens are fed by pixels of their own"):
        vi.probe(Drops(vit()), images())


def test_a_changed_function_is_a_changed_model() -> None:
    model = Outer(vit(num_classes=0, global_pool=""), after=lambda x: x[:, 0])
    assert vi.probe(model, images()).layout.readout == "token"
    model.after = lambda x: x[:, 1:].mean(1)
    assert vi.probe(model, images()).layout.readout == "avg"


def pooled(query: Any) -> Outer:
    """Build a model that pools its patches by softmax attention with a query."""

    def pool(x: Tensor) -> Tensor:
        patches = x[:, 1:]
        return ((query(x) @ patches.mT).softmax(-1) @ patches)[:, 0]

    return Outer(vit(num_classes=0, global_pool=""), after=pool).eval()


def test_a_pool_may_ask_by_the_class_token() -> None:
    model = pooled(lambda x: x[:, :1])
    seen = vi.probe(model, images())
    assert (seen.layout.readout, len(seen.structure.layers)) == ("map", 3)
    tokens = Outer(vit(num_classes=0, global_pool="")).eval()
    with vi.record_attention(tokens) as record, torch.no_grad():
        x = tokens(images())
    expected = F.pad((x[:, :1] @ x[:, 1:].mT).softmax(-1), (1, 0))
    for layer in (2, 1, 0):
        mixed = record.attention(layer).mean(1) + torch.eye(17)
        expected = expected @ (mixed / mixed.sum(-1, keepdim=True))
    found = vi.AttentionRollout(model).patch_map(images())
    torch.testing.assert_close(found.flatten(1), expected[:, 0, 1:].to(found))


def test_a_pool_beside_the_class_token_is_refused_with_a_name() -> None:
    def pool(x: Tensor) -> Tensor:
        return x[:, 0] + ((x[:, :1] @ x[:, 1:].mT).softmax(-1) @ x[:, 1:])[:, 0]

    model = Outer(vit(num_classes=0, global_pool=""), after=pool)
    with pytest.raises(
        UnsupportedModelError, match=r"^the model's own `forward` attends from 1 of the tokens to 16"
    ):
        vi.probe(model, images())


def test_views_in_the_batch_are_hinted_at() -> None:
    def both(x: Tensor) -> Tensor:
        return torch.cat((x, x.flip(-1)))

    model = Outer(vit(), before=both, after=lambda x: x.unflatten(0, (2, -1)).mean(0))
    with pytest.raises(UnsupportedModelError, match="several views of an image in the batch"):
        vi.probe(model, images())
