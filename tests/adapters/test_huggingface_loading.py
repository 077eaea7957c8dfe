"""transformers models: attention against their eager implementation, layouts, every method, the command line."""

import builtins
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from tests.helpers.command_line import run
from tests.helpers.explaining import OF_TOKENS, assert_near, assert_same_state, state_of
from tests.helpers.families import Family
from tests.helpers.transformers_models import IMAGE, ROWS, TABLE, TOWER, explainer_of, smooth_image
from vit_interactions import (
    EXPLAINERS,
    AttentionRollout,
    GenericAttention,
    InteractionUncertainty,
    RawAttention,
    UnsupportedModelError,
    record_attention,
    token_layout,
)
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model

every_model = pytest.mark.parametrize("row", ROWS, ids=TABLE)


def target_of(row: Family) -> Any:
    """Return a class for classifiers, otherwise a neuron of the output."""
    if "class" in row.name or row.name in ("vit", "deit", "distilled", "beit", "dinov2"):
        return [3, 1]
    return neuron


def neuron(output: Any) -> Tensor:
    """Return one feature of the image."""
    features = output if isinstance(output, Tensor) else output.get("pooler_output", output.get("image_embeds"))
    return features[:, 5] if features is not None else output.last_hidden_state.mean(1)[:, 5]


def is_unsupported(name: str, row: Family) -> bool:
    """Return whether a method does not support a model."""
    if name == "dynamic_accumulated_attention":
        return row.readout != "token"
    if name in OF_TOKENS:  # the target averages the tokens itself, outside the model
        return row.name == "siglip_headless"
    # No rules for rotary embeddings.
    return name == "transformer_attribution" and row.name.startswith("dinov3")


def score_of(output: Any, target: Any) -> Tensor:
    """Compute the score of a target without the library."""
    return target(output) if callable(target) else output.logits[range(len(target)), target]


def eager(model: nn.Module) -> Any:
    """Copy the model with transformers' eager attention, which can be returned."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, hf.PreTrainedModel):
            module.set_attn_implementation("eager")
    return twin


@every_model
def test_attention_and_gradients_equal_the_eager_implementation(row: Family) -> None:
    model: Any = row.build()
    if row.name == "clip_wrapped":
        model = model.clip.vision_model
    twin, target = eager(model), target_of(row)
    images = row.images().requires_grad_()
    with record_attention(model) as record:
        output = model(images)
    expected = twin(images, output_attentions=True)
    assert len(record.calls) == len(expected.attentions) == row.layers
    score = score_of(expected, target)
    wanted = torch.autograd.grad(score.sum(), expected.attentions, allow_unused=True, materialize_grads=True)
    output_grads = record.output_grads(score_of(output, target))
    for layer, attention in enumerate(expected.attentions):
        assert attention.shape == (2, row.heads, row.tokens, row.tokens)
        assert attention.std() > 1.5 / row.tokens  # far from uniform
        torch.testing.assert_close(record.attention(layer), attention, rtol=0, atol=1e-6)
        got = record.calls[layer].attention_grad(output_grads[layer])
        assert (got - wanted[layer]).abs().max() <= 1e-5 * wanted[layer].abs().max()
        assert wanted[layer].abs().max() > 0


@every_model
def test_recording_leaves_the_output_unchanged(row: Family) -> None:
    model, images = row.build(), row.images()
    with torch.no_grad():
        expected = model(images)
        with record_attention(model) as record:
            output = model(images)
        assert record.layout == token_layout(model, row.size)
    tensors = (output,) if isinstance(output, Tensor) else tuple(output.values())
    for value, other in zip(
        tensors, (expected,) if isinstance(output, Tensor) else expected.values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=2e-6, atol=2e-6)


@every_model
def test_layout(row: Family) -> None:
    layout = token_layout(row.build(), row.size)
    assert (layout.prefix, layout.grid, layout.extent) == (row.prefix, row.grid, row.extent)
    assert layout.readout == row.readout


@every_model
def test_the_readout_tokens_are_those_with_a_gradient(row: Family) -> None:
    # The gradient at the last layer's output z is zero exactly at the tokens that are not read.
    model, images = row.build(), row.images()
    with record_attention(model) as record:
        output = model(images.requires_grad_())
    pool = record.pool_calls[-1].attention() if record.pool_calls else None
    weights = record.layout.readout_weights(pool)
    (gradient,) = record.output_grads(score_of(output, target_of(row)))[-1:]
    read = gradient.abs().sum((1, 3)) > 0
    assert torch.equal(read, (weights > 0).expand_as(read))
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


def test_the_class_token_and_the_mean_of_patches_count_half_each() -> None:
    layout = token_layout(TABLE["dinov2_registers_classifier"].build(), (28, 28))
    expected = torch.tensor([[1 / 2, 0, 0, 0, 0, 1 / 8, 1 / 8, 1 / 8, 1 / 8]])
    assert torch.equal(layout.readout_weights(), expected)


def test_siglips_pooling_head_is_recorded_as_pooling() -> None:
    row = TABLE["siglip"]
    model: Any = row.build()
    with torch.no_grad(), record_attention(model) as record:
        output = model(row.images())
    (call,) = record.pool_calls
    head, tokens = model.head, output.last_hidden_state
    _, weights = head.attention(head.probe.repeat(2, 1, 1), tokens, tokens, average_attn_weights=False)
    assert call.name == "head.attention"
    torch.testing.assert_close(call.attention(), weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(record.layout.readout_weights(weights), weights.mean((1, 2)), rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")  # attention Grad-CAM may find nothing
@pytest.mark.parametrize("name", EXPLAINERS)
@every_model
def test_every_method_explains_every_model(row: Family, name: str) -> None:
    # In double precision, because rules that divide by sums near zero amplify rounding errors.
    model, images, target = row.build().double(), row.images().double(), target_of(row)
    explainer = explainer_of(name, model)
    before = state_of(model)
    if is_unsupported(name, row):
        with pytest.raises(UnsupportedModelError):
            explainer.patch_map(images, target)
    else:
        patch_map = explainer.patch_map(images, target)
        assert patch_map.shape == (2, *row.grid)
        assert patch_map.isfinite().all()
        if name != "attention_grad_cam":  # it keeps only positive evidence, and may find none
            assert patch_map.flatten(1).std(1).min() > 0
        each = [target] * 2 if callable(target) else [[index] for index in target]
        alone = [explainer.patch_map(image[None], t) for image, t in zip(images, each, strict=True)]
        if name != "random_map":
            assert_near(torch.cat(alone), patch_map, 1e-6)
        attribution = explainer.attribute(images, target)
        assert isinstance(attribution, Tensor)
        assert attribution.shape == images.shape
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("name", ["attention_rollout", "gmar"])
def test_a_failing_model_is_unchanged(name: str) -> None:
    model: Any = TABLE["siglip"].build().train()
    model.encoder.layers[0].eval()

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    model.head.mlp.register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        EXPLAINERS[name](model).attribute(TABLE["siglip"].images(), neuron)
    assert_same_state(before, state_of(model))


def test_targets_that_are_not_a_class() -> None:
    row = TABLE["clip_wrapped"]
    model: Any = row.build()
    with torch.no_grad():
        texts = model.clip.get_text_features(torch.tensor([[0, 7, 1]])).pooler_output

    def similarity(features: Tensor) -> Tensor:
        return torch.cosine_similarity(features, texts)

    images = row.images()
    to_text = EXPLAINERS["gmar"](model).patch_map(images, similarity)
    to_neuron = EXPLAINERS["gmar"](model).patch_map(images, lambda features: features[:, 5])
    assert to_text.shape == (2, 4, 4)
    assert (to_text - to_neuron).abs().max() > 1e-2 * to_text.abs().max()

    vit: Any = TABLE["vit"].build()
    explainer = EXPLAINERS["gmar"](vit)
    by_index = explainer.patch_map(images, vit(images).logits.argmax(1))
    assert torch.equal(explainer.patch_map(images, "pred"), by_index)
    assert torch.equal(explainer.patch_map(images, lambda output: output.logits.amax(1)), by_index)


# --- unsupported models ---


@every_model
@pytest.mark.parametrize("name", ["rollout", "u", "generic_attention"])
def test_eager_attention_is_read_like_sdpa(name: str, row: Family) -> None:
    method = {"rollout": AttentionRollout, "u": InteractionUncertainty, "generic_attention": GenericAttention}[
        name
    ]
    model, images = row.build().double(), row.images().double()
    target = None if name != "generic_attention" else target_of(row)
    expected = method(model).patch_map(images, target)
    assert_near(method(eager(model)).patch_map(images, target), expected, 1e-5)


def test_an_image_text_model_raises_and_names_its_tower() -> None:
    model: Any = TABLE["clip_wrapped"].build()
    with pytest.raises(ValueError, match=r"must be images that CLIPModel takes, .*fails with AttributeError"):
        RawAttention(model.clip).patch_map(TABLE["vit"].images())
    assert RawAttention(model.clip.vision_model).patch_map(TABLE["vit"].images()).shape == (2, 4, 4)


@pytest.mark.parametrize("name", ["vit", "deit", "clip", "siglip", "siglip_classifier"])
def test_images_of_another_size_raise_with_the_models_size(name: str) -> None:
    model = TABLE[name].build()
    message = r"`inputs` must be images that \w+ takes, got 3 x 48 x 80 .*Resize or convert"
    with pytest.raises(ValueError, match=message):
        AttentionRollout(model).patch_map(torch.randn(2, 3, 48, 80))


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "clip", "siglip"])
def test_a_wrapper_may_interpolate_positions(name: str) -> None:
    class AnySize(nn.Module):
        """A wrapper that calls the model as documented."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = TABLE[name].build()

        def forward(self, image: Tensor) -> Any:
            return self.inner(image, interpolate_pos_encoding=True)

    assert AttentionRollout(AnySize()).patch_map(torch.randn(2, 3, 48, 80)).shape == (2, 3, 5)


def test_images_smaller_than_a_patch_raise() -> None:
    with pytest.raises(ValueError, match=r"got 3 x 8 x 64 .*Kernel size can't be greater"):
        token_layout(TABLE["dinov3"].build(), (8, 64))


def test_a_masked_autoencoder_that_drops_patches_raises() -> None:
    masked = hf.ViTMAEModel(hf.ViTMAEConfig(**TOWER))
    with pytest.raises(
        UnsupportedModelError,
        match="4 tokens are fed by pixels of their own, but they do not form rows and columns",
    ):
        RawAttention(masked).patch_map(TABLE["vit"].images())


# --- loading and the command line ---


def processor(kind: str, **options: Any) -> Any:
    """Create a transformers image processor."""
    steps = {
        "squash": {"size": {"height": 64, "width": 64}},
        "crop": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    }[kind]
    if kind == "crop":
        return hf.CLIPImageProcessor(**steps, **options)
    return hf.ViTImageProcessor(**steps, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("squash", {}),
        ("crop", {}),
        ("crop", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}),
        ("squash", {"do_normalize": False}),
        ("squash", {"rescale_factor": 1 / 127.5}),
        ("squash", {"do_rescale": False}),
    ],
)
def test_preprocessing_equals_the_image_processor(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    TABLE["vit"].build().save_pretrained(tmp_path)
    processor(kind, **options).save_pretrained(tmp_path)
    prepared = prepare(read_image(smooth_image(tmp_path / "picture.png")), load_model(f"hf:{tmp_path}"))
    expected = processor(kind, **options)(prepared.image, return_tensors="pt")["pixel_values"][0]
    assert prepared.input.shape == expected.shape == (3, 64, 64)
    scale = expected.max() - expected.min()
    assert (prepared.input - expected).abs().max() < 0.02 * scale
    box = prepared.box_of_extent((64, 64))
    # 90 rows become 72, of which 64 are kept.
    side, rest = 64 * 90 / 72, (90 - 64 * 90 / 72) / 2
    middle = (0.0, 0.0, 150.0, 90.0) if kind == "squash" else (75 - side / 2, rest, 75 + side / 2, rest + side)
    assert box == pytest.approx(middle)


def test_without_an_image_processor_the_size_comes_from_the_configuration(tmp_path: Path) -> None:
    hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**{**TOWER, "image_size": 48})).save_pretrained(tmp_path)
    prepared = prepare(Image.new("RGB", (100, 50), "white"), load_model(f"hf:{tmp_path}"))
    assert torch.equal(prepared.input, torch.ones(3, 48, 48))
    assert prepared.box_of_extent((48, 48)) == (0, 0, 100, 50)


def test_unsupported_preprocessing_raises(tmp_path: Path) -> None:
    TABLE["vit"].build().save_pretrained(tmp_path)
    processor("crop", do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"resizes images to .*72.* and crops to None, which timm's transforms do not"
    ):
        load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["vit", "vit_features", "distilled", "beit", "dinov3", "clip", "siglip"])
def test_loading_returns_the_saved_model(name: str, tmp_path: Path) -> None:
    saved = TABLE[name].build()
    saved.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert type(model) is type(saved)
    assert not model.training
    for key, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_loading_returns_the_vision_tower(tmp_path: Path) -> None:
    wrapped: Any = TABLE["clip_wrapped"].build()
    wrapped.clip.half().save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert isinstance(model, hf.CLIPVisionModel)
    for key, value in wrapped.clip.vision_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value.float()), key


def test_failed_loading_raises_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        load_model(f"hf:{tmp_path}/nowhere")
    model = TABLE["vit"].build()
    model.save_pretrained(tmp_path / "vit")
    (tmp_path / "weights.pth").write_bytes(b"")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="`checkpoint` must be None for hf:"):
        load_model(f"hf:{tmp_path}/vit", tmp_path / "weights.pth")
    # Pickles are not read, because they may run code.
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(f"hf:{tmp_path}/vit")


def test_missing_weights_raise_except_for_the_pooler(tmp_path: Path) -> None:
    hf.ViTModel(hf.ViTConfig(**IMAGE), add_pooling_layer=False).save_pretrained(tmp_path)
    assert isinstance(load_model(f"hf:{tmp_path}"), hf.ViTModel)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ValueError, match=r"has no weights for .*classifier\.weight \(2 missing in total\)"):
        load_model(f"hf:{tmp_path}")


def test_missing_transformers_raises_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "vit_interactions_adapters.huggingface_loading", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "vit_interactions\[huggingface\]"'):
        load_model("hf:anything")
    path = smooth_image(tmp_path / "picture.png")
    assert run("explain", path, "--model", "hf:anything", "--out", tmp_path / "out") == 2
    assert 'pip install "vit_interactions[huggingface]"' in capsys.readouterr().err


def test_the_command_line_explains_images_with_a_saved_folder(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    TABLE["siglip"].build().save_pretrained(folder)
    processor("crop").save_pretrained(folder)
    path = smooth_image(tmp_path / "picture.png")
    methods = ["--method", "attention_rollout", "--method", "responsive_field_size"]
    assert run("explain", path, "--model", f"hf:{folder}", *methods, "--patch", "1,2", "--out", out) == 0
    manifest = json.loads((out / "picture" / "manifest.json").read_text())
    assert manifest["layout"]["readout"] == "map"
    assert manifest["seen_box"] == pytest.approx([35, 5, 115, 85])
    assert manifest["settings"]["model"] == f"hf:{folder}"
    assert len(manifest["settings"]["checkpoint"]) == 64
    model = load_model(f"hf:{folder}")
    inputs = prepare(read_image(path), model).input[None]
    maps = np.load(out / "picture" / "maps.npz")
    assert torch.equal(torch.from_numpy(maps["attention_rollout"]), AttentionRollout(model).patch_map(inputs)[0])
