"""torchvision's ViTs, and torch.nn.MultiheadAttention in every form, against the weights that it returns itself."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from vit_interactions_adapters.torchvision import load

from tests.helpers.command_line import run
from tests.helpers.explaining import assert_near, assert_same_state, images, state_of
from tests.helpers.torchvision_models import replayed, vit
from tests.helpers.transformers_models import explainer_of, smooth_image
from vit_interactions import (
    EXPLAINERS,
    AttentionRollout,
    RawAttention,
    UnsupportedModelError,
    record_attention,
    token_layout,
)
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model


def own_weights(model: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run torchvision's ViT block by block, asking each attention for its weights."""
    vision: Any = model
    x = vision._process_input(inputs)
    x = torch.cat([vision.class_token.expand(len(x), -1, -1), x], 1) + vision.encoder.pos_embedding
    weights = []
    for block in vision.encoder.layers:
        normed = block.ln_1(x)
        attended, attention = block.self_attention(normed, normed, normed, average_attn_weights=False)
        weights.append(attention)
        x = x + attended
        x = x + block.mlp(block.ln_2(x))
    return vision.heads(vision.encoder.ln(x)[:, 0]), weights


@pytest.fixture(params=[True, False], ids=["fast path", "no fast path"])
def _fast_path(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield
    assert torch.backends.mha.get_fastpath_enabled() == request.param
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.usefixtures("_fast_path")
@pytest.mark.parametrize("gradients", [True, False])
def test_attention_is_what_the_module_returns_and_the_output_is_the_models(gradients: bool) -> None:
    model, inputs = vit().double(), images().double()
    with torch.set_grad_enabled(gradients):
        expected = model(inputs)
        with record_attention(model) as record:
            output = model(inputs)
        _, weights = own_weights(model, inputs)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
    assert [call.name for call in record.calls] == [
        f"encoder.layers.encoder_layer_{layer}.self_attention" for layer in range(2)
    ]
    for layer, attention in enumerate(weights):
        assert attention.shape == (2, 2, 17, 17)
        assert attention.std() > 0.1  # far from uniform
        torch.testing.assert_close(record.attention(layer), attention, rtol=0, atol=1e-9)


def test_gradients_are_autograds_through_the_weights() -> None:
    model, inputs = vit(), images()
    with record_attention(model) as record:
        gradients = record.output_grads(model(inputs)[[0, 1], [3, 1]])
    # The module returns a view of its weights from beside the graph: replay attention @ value in it.
    weights: list[Tensor] = []
    output = replayed(model, inputs, weights)
    expected = torch.autograd.grad(output[[0, 1], [3, 1]].sum(), weights)
    for call, gradient, wanted in zip(record.calls, gradients, expected, strict=True):
        assert wanted.abs().max() > 0
        assert (call.attention_grad(gradient) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


# --- nn.MultiheadAttention ---


@pytest.mark.usefixtures("_fast_path")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("mask", [None, "bool", "float", "padding", "causal"])
@pytest.mark.parametrize("widths", [{}, {"kdim": 24, "vdim": 20}, {"bias": False}], ids=str)
def test_every_form_of_the_module(
    batch_first: bool, options: dict[str, Any], mask: str | None, widths: dict[str, Any]
) -> None:
    module = nn.MultiheadAttention(32, 2, batch_first=batch_first, **widths).eval()
    shape = (3, 7) if batch_first else (7, 3)
    query, key, value = (torch.randn(*shape, widths.get(name, 32)) * 3 for name in ("query", "kdim", "vdim"))
    masks: dict[str, Any] = {
        "bool": {"attn_mask": torch.rand(7, 7) > 0.7},
        "float": {"attn_mask": torch.randn(6, 7, 7)},
        "padding": {"key_padding_mask": torch.arange(7).expand(3, 7) > torch.tensor([[6], [4], [2]])},
        "causal": {"attn_mask": nn.Transformer.generate_square_subsequent_mask(7), "is_causal": True},
    }
    given = masks.get(mask or "", {})
    if mask == "bool":
        given["attn_mask"].fill_diagonal_(False)
    with torch.no_grad():
        expected, weights = module(query, key, value, **given, **options)
        _, each = module(query, key, value, **given, average_attn_weights=False)
        with record_attention(module) as record:
            output, returned = module(query, key, value, **given, **options)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(returned, weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(record.attention(0), each, rtol=0, atol=1e-6)


def test_one_example_without_a_batch() -> None:
    module, tokens = nn.MultiheadAttention(32, 2).eval(), torch.randn(7, 32) * 3
    for average in (True, False):
        expected, weights = module(tokens, tokens, tokens, average_attn_weights=average)
        with record_attention(module) as record:
            output, returned = module(tokens, tokens, tokens, average_attn_weights=average)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(returned, weights, rtol=0, atol=1e-6)
        assert record.attention(0).shape == (1, 2, 7, 7)


def test_a_single_query_is_a_pooling_head() -> None:
    module, tokens = nn.MultiheadAttention(32, 2, batch_first=True).eval(), torch.randn(3, 7, 32)
    with record_attention(module) as record:
        module(tokens[:, :1], tokens, tokens)
    assert not record.calls
    assert record.pool_calls[0].attention().shape == (3, 2, 1, 7)


@pytest.mark.usefixtures("_fast_path")
@pytest.mark.parametrize("padded", [True, False])
def test_encoder_layers_leave_their_fast_path(padded: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 2, 48, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    tokens = torch.randn(3, 7, 32)
    padding = torch.zeros(3, 7, dtype=torch.bool) if padded else None
    with torch.no_grad():
        expected = encoder(tokens, src_key_padding_mask=padding)
        with record_attention(encoder) as record:
            output = encoder(tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-6)
    assert [call.name for call in record.calls] == ["layers.0.self_attn", "layers.1.self_attn"]


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_that_are_not_tokens_raise(options: dict[str, bool]) -> None:
    model = vit()
    for block in model.encoder.layers:
        block.self_attention = nn.MultiheadAttention(32, 2, batch_first=True, **options)
    with pytest.raises(
        UnsupportedModelError, match=r"encoder_layer_0.self_attention` attends to a key that is not a token"
    ):
        RawAttention(model).patch_map(images())


class ReturnsWeights(nn.Module):
    """Attention whose returned weights are part of the graph."""

    def __init__(self) -> None:
        """Build the attention."""
        super().__init__()
        self.attend = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        attended, weights = self.attend(tokens, tokens, tokens)
        return attended.sum((1, 2)), weights


def test_a_score_of_the_returned_weights_raises() -> None:
    model, tokens = ReturnsWeights().eval(), torch.randn(2, 7, 32)
    with record_attention(model) as record:
        scores, weights = model(tokens)
    assert record.attention_grad(0, scores).abs().max() > 0
    assert record.attention_grad(0, scores + 0 * weights[:, 0, 0]).abs().max() > 0
    with pytest.raises(UnsupportedModelError, match=r"depends on the attention weights that `attend` returns"):
        record.attention_grad(0, scores + weights[:, 0, 0])


def test_nothing_in_torch_is_changed_for_other_threads() -> None:
    functions = (F.multi_head_attention_forward, F.scaled_dot_product_attention, F.has_torch_function)
    model, inputs = vit(), images()
    expected = model(inputs)
    seen: dict[str, Any] = {}

    def elsewhere(*_: Any) -> None:
        def work() -> None:
            # As in a separate thread, without this thread's gradient mode or modes.
            with torch.no_grad():
                seen["output"] = model(inputs)
            seen["functions"] = (
                F.multi_head_attention_forward,
                F.scaled_dot_product_attention,
                F.has_torch_function,
            )

        if "output" not in seen:
            seen["output"] = None
            handle.remove()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    handle = model.encoder.layers[1].self_attention.register_forward_pre_hook(elsewhere)
    with record_attention(model) as record:
        model(inputs)
    assert len(record.calls) == 2
    torch.testing.assert_close(seen["output"], expected, rtol=0, atol=1e-5)
    assert seen["functions"] == functions


# --- layout and methods ---


def test_layout() -> None:
    layout = token_layout(nn.Sequential(nn.Identity(), vit()), (64, 64))
    assert (layout.prefix, layout.grid, layout.readout, layout.extent) == (1, (4, 4), "token", (64, 64))
    with pytest.raises(
        ValueError, match=r"got 3 x 48 x 80 .*Wrong image height! Expected 64 but got 48!\. Resize"
    ):
        RawAttention(vit()).patch_map(images(size=(48, 80)))


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_other_torchvision_models_raise(name: str) -> None:
    swin = torchvision.models.SwinTransformer([4, 4], 24, [1, 1], [1, 2], [4, 4])
    model = {"resnet18": torchvision.models.resnet18(), "swin_t": swin}[name]
    with pytest.raises(UnsupportedModelError, match=r"no call of scaled_dot|attends within windows"):
        RawAttention(model).patch_map(torch.randn(2, 3, 64, 64))


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")  # attention Grad-CAM may find nothing
@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.parametrize("stem", [False, True], ids=["patches", "convolutional stem"])
def test_every_method_explains_the_model_and_gives_it_back(name: str, stem: bool) -> None:
    stride = torchvision.models.vision_transformer.ConvStemConfig(16, 3, 4)
    # In double precision: rules that divide by sums near zero make much of a rounding.
    model = vit(conv_stem_configs=[stride, stride] if stem else None).double()
    model.encoder.layers[1].train()
    explainer = explainer_of(name, model)
    before, inputs = state_of(model), images().double()
    patch_map = explainer.patch_map(inputs, [3, 1])
    assert patch_map.shape == (2, 4, 4)
    if name != "attention_grad_cam":  # which keeps positive evidence only, and may find none
        assert patch_map.flatten(1).std(1).min() > 0
    alone = [explainer.patch_map(image[None], c) for image, c in zip(inputs, [3, 1], strict=True)]
    if name != "random_map":
        assert_near(torch.cat(alone), patch_map, 1e-6)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("name", ["attention_rollout", "gmar"])
@pytest.mark.usefixtures("_fast_path")
def test_a_failing_model_is_unchanged(name: str) -> None:
    model = vit().train()
    model.encoder.layers[0].eval()

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    model.encoder.layers[1].self_attention.register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        EXPLAINERS[name](model).attribute(images(), 1)
    assert_same_state(before, state_of(model))


# --- loading and the command line ---


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save weights of a small ViT with 64 x 64 pixels and 5 classes under the name of a large one."""

    def small(*, weights: Any, num_classes: int = 1000, image_size: int = 224) -> nn.Module:
        return vit(num_classes=num_classes, image_size=image_size)

    real = torchvision.models.get_model

    def get_model(name: str, **options: Any) -> nn.Module:
        return small(**options) if name == "vit_b_16" else real(name, **options)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    save_file(vit().state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_loading_reads_classes_and_size_from_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    model: Any = load_model("torchvision:vit_b_16", checkpoint)
    assert (model.num_classes, model.image_size, model.training) == (5, 64, False)
    for key, value in vit().state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    prepared = prepare(read_image(smooth_image(tmp_path / "picture.png")), model)
    assert prepared.input.shape == (3, 64, 64)
    # 150 x 90 become 121 x 73, 73 = floor(64 / (224 / 256)), of which the middle 64 x 64 are kept.
    box = (28 * 150 / 121, 4 * 90 / 73, (28 + 64) * 150 / 121, (4 + 64) * 90 / 73)
    assert prepared.box_of_extent((64, 64)) == pytest.approx(box)


def test_preprocessing_is_torchvisions_own() -> None:
    rows, cols = np.mgrid[:300, :400]
    pixels = np.stack([127 + 120 * np.sin(rows / 30 + shift) * np.cos(cols / 40) for shift in range(3)], -1)
    prepared = Image.fromarray(pixels.astype(np.uint8))
    expected = torchvision.models.ViT_B_16_Weights.DEFAULT.transforms()(prepared)
    with torch.device("meta"):
        model = load("vit_b_16", {"heads.head.weight": torch.empty(1000, 768)})
    torch.testing.assert_close(prepare(prepared, model).input, expected, rtol=0, atol=1e-5)


def test_wrong_names_and_wrong_weights_raise(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of vit_b_16, .*, got 'vit_b_61'"):
        load_model("torchvision:vit_b_61")
    save_file({"conv_proj.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not fit torchvision:vit_b_16: it has no `class_token`"):
        load_model("torchvision:vit_b_16", tmp_path / "other.safetensors")


def test_the_command_line_explains_images(checkpoint: Path, tmp_path: Path) -> None:
    path, out = smooth_image(tmp_path / "picture.png"), tmp_path / "out"
    model = ("--model", "torchvision:vit_b_16", "--checkpoint", checkpoint)
    assert run("explain", path, *model, "--method", "attention_rollout", "--out", out) == 0
    maps = np.load(out / "picture" / "maps.npz")
    loaded = load_model("torchvision:vit_b_16", checkpoint)
    inputs = prepare(read_image(path), loaded).input[None]
    assert torch.equal(torch.from_numpy(maps["attention_rollout"]), AttentionRollout(loaded).patch_map(inputs)[0])
    manifest = json.loads((out / "picture" / "manifest.json").read_text())
    assert manifest["prediction"]["index"] == int(loaded(inputs).argmax())
