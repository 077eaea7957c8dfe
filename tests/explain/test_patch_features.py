"""Features of patches after any block, compared with what the libraries themselves return."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import assert_same_state, images, lived_in_model, small_vit, state_of
from tests.helpers.families import FAMILIES, Family
from tests.helpers.torchvision_models import replayed
from tests.helpers.torchvision_models import vit as torchvision_vit
from tests.helpers.transformers_models import TABLE


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", [True, False])
def test_features_are_those_of_timms_forward_intermediates(family: Family, norm: bool) -> None:
    model: Any = family.build()
    inputs = family.images()
    with torch.no_grad():
        expected = model.forward_intermediates(inputs, norm=norm, output_fmt="NLC", intermediates_only=True)
    assert len(expected) == family.layers
    for layer, features in enumerate(expected):
        found = vi.patch_features(model, inputs, layer, norm=norm)
        assert found.shape == (2, family.grid[0] * family.grid[1], features.shape[-1])
        assert_equal(found, features)
        assert torch.equal(vi.patch_features(model, inputs, layer - family.layers, norm=norm), found)
    assert not torch.allclose(expected[0], expected[-1], atol=1e-2)


def test_the_last_features_are_those_that_the_head_reads(family: Family) -> None:
    model: Any = family.build()
    with torch.no_grad():
        tokens = model.forward_features(family.images())
    tokens = tokens["patches"] if isinstance(tokens, dict) else tokens[:, family.prefix :]
    assert_equal(vi.patch_features(model, family.images()), tokens)


@pytest.mark.parametrize("name", ["vit", "deit", "beit_token", "dinov2", "dinov2_registers", "dinov3", "siglip"])
def test_features_are_the_hidden_states_of_transformers(name: str) -> None:
    row = TABLE[name]
    model: Any = row.build()
    inputs = row.images()
    body = model.base_model if hasattr(model, "classifier") else model
    with torch.no_grad():
        output = body(inputs, output_hidden_states=True)
    for layer in range(row.layers):
        found = vi.patch_features(model, inputs, layer, norm=False)
        assert_equal(found, output.hidden_states[layer + 1][:, row.prefix :])
    assert_equal(vi.patch_features(model, inputs), output.last_hidden_state[:, row.prefix :])


def test_clip_has_no_norm_of_all_tokens() -> None:
    model, inputs = TABLE["clip"].build(), TABLE["clip"].images()
    assert torch.equal(vi.patch_features(model, inputs), vi.patch_features(model, inputs, norm=False))


def test_features_of_torchvisions_blocks() -> None:
    model: Any = torchvision_vit()
    states: list[Tensor] = []
    with torch.no_grad():
        replayed(model, images(), [], states)
    for layer, state in enumerate(states):
        # Attention is written out there, which rounds differently.
        assert_equal(vi.patch_features(model, images(), layer, norm=False), state[:, 1:], 1e-5)
        assert_equal(vi.patch_features(model, images(), layer), model.encoder.ln(state)[:, 1:].detach(), 1e-5)


def test_features_of_open_clips_blocks() -> None:
    transformer = pytest.importorskip("open_clip.transformer")
    torch.manual_seed(0)
    model = transformer.VisionTransformer((48, 64), 16, 32, 2, 2, 2.0, output_dim=16, output_tokens=True).eval()
    inputs = images(size=(48, 64))
    states: list[Tensor] = []
    for block in model.transformer.resblocks:
        block.register_forward_hook(lambda _, __, output: states.append(output.clone()))
    with torch.no_grad():
        _, tokens = model(inputs)
    for layer, state in enumerate(states[:2]):
        assert_equal(vi.patch_features(model, inputs, layer, norm=False), state[:, 1:])
    assert_equal(vi.patch_features(model, inputs), tokens)


class Rearranged(nn.Module):
    """A ViT whose tokens are in another order: its prefix behind, its patches by columns from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.vit: Any = small_vit(img_size=(48, 64))
        order = torch.arange(12).reshape(3, 4).flip(1).T.flatten()
        self.order = torch.cat((1 + order, torch.tensor([0])))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit._pos_embed(self.vit.patch_embed(x))[:, self.order]
        tokens = self.vit.norm(self.vit.blocks(tokens))
        logits: Tensor = self.vit.head(tokens[:, -1])
        return logits


def test_patches_are_row_by_row_whatever_the_models_order_is() -> None:
    model, inputs = Rearranged().eval(), images(size=(48, 64))
    assert vi.token_layout(model, (48, 64)).order is not None
    for layer in (0, 1):
        torch.testing.assert_close(
            vi.patch_features(model, inputs, layer), vi.patch_features(model.vit, inputs, layer)
        )


class InPlace(nn.Module):
    """A block that overwrites its input."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x.add_(self.block(x) - x) if not torch.is_grad_enabled() else self.block(x)


def test_blocks_that_overwrite_their_input_change_nothing() -> None:
    model, plain = small_vit(), small_vit()
    model.blocks = nn.Sequential(*map(InPlace, model.blocks))
    for layer in (0, 1):
        expected = vi.patch_features(plain, images(), layer)
        torch.testing.assert_close(vi.patch_features(model, images(), layer), expected, rtol=1e-5, atol=1e-5)


def test_the_model_is_not_changed_and_runs_in_evaluation_mode() -> None:
    model = lived_in_model()
    before, inputs = state_of(model), images()
    found = vi.patch_features(model, inputs)
    assert_same_state(before, state_of(model))
    assert not found.requires_grad
    assert torch.equal(found, vi.patch_features(model, inputs))
    assert torch.equal(inputs, images())
    with torch.inference_mode():
        assert torch.equal(vi.patch_features(model, inputs), found)


def test_layers_that_do_not_exist_raise() -> None:
    for layer in (2, -3):
        with pytest.raises(IndexError, match=rf"`layer` must lie in \[-2, 1\] for this model, got {layer}\."):
            vi.patch_features(small_vit(), images(), layer)
    with pytest.raises(ValueError, match=r"`layer` must be an int, got 1\.5"):
        vi.patch_features(small_vit(), images(), 1.5)  # type: ignore[arg-type]


def test_blocks_that_cannot_be_read_raise() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit: Any = small_vit()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.vit._pos_embed(self.vit.patch_embed(x))
            for block in self.vit.blocks:  # the parts of the blocks run, but not the blocks
                tokens = tokens + block.attn(block.norm1(tokens))
                tokens = tokens + block.mlp(block.norm2(tokens))
            logits: Tensor = self.vit.head(self.vit.norm(tokens)[:, 0])
            return logits

    with pytest.raises(vi.UnsupportedModelError, match=r"Block is a block that ran 0 times, not once"):
        vi.patch_features(Loop().eval(), images())

    class TokensFirst(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            x = x if x.shape[0] != 17 else x.transpose(0, 1)
            output: Tensor = self.block(x).transpose(0, 1)
            return output

    model = small_vit()
    model.blocks = nn.Sequential(*map(TokensFirst, model.blocks))
    model.norm = nn.Sequential(Swapped(), model.norm)
    with pytest.raises(
        vi.UnsupportedModelError, match=r"TokensFirst returns \(17, 2, 32\), not one tensor \(batch, 17 tokens"
    ):
        vi.patch_features(model, images())
    with pytest.raises(vi.UnsupportedModelError):
        vi.patch_features(timm.create_model("test_resnet"), images())


class Swapped(nn.Module):
    """Swap the axes of images and tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


def test_modules_that_read_all_tokens_but_do_not_normalize_are_no_norm() -> None:
    model = FAMILIES["vit"].build()
    inputs = FAMILIES["vit"].images()
    expected = vi.patch_features(model, inputs)
    plain = vi.patch_features(model, inputs, norm=False)
    model.norm = nn.Sequential(nn.Identity(), nn.Dropout(0.5), model.norm).eval()
    torch.testing.assert_close(vi.patch_features(model, inputs), expected)
    model.norm = nn.Linear(32, 32)
    assert torch.equal(vi.patch_features(model, inputs), plain)
