"""WinfT: ViT's parameters and checkpoints, and timm's conventions."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import FeatureInfo, _hub, get_notrace_modules
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn
from torchvision import transforms

import vit_interactions as vi
from tests.helpers.data import IMAGES, WEIGHTS
from tests.helpers.window_free import every_fill, images, small
from vit_interactions.functional.window_free import (
    WINDOW_FILLS,
    window_free_attention,
    window_free_loss,
)
from vit_interactions.models import winft
from vit_interactions.models.winft import WindowFreeAttention

VARIANTS = [name for name in timm.list_models("*winft*", module="winft") if name != "test_winft"]


def gradients(model: nn.Module, output: Tensor, *more: Tensor) -> list[Tensor]:
    """Compute the gradients of a score, plus optional terms, for all parameters."""
    loss = output.square().mean() + sum(more)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_near(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_variants_are_registered_and_differ_from_vits_only_in_attention() -> None:
    assert set(VARIANTS) == {
        *(f"winft_{size}_patch16_{pixels}" for size in ("tiny", "small", "base") for pixels in (224, 384)),
        "winft_base_patch32_224",
        "winft_base_patch32_384",
    }
    for name in (*VARIANTS, "test_winft"):
        with torch.device("meta"):
            model, twin = timm.create_model(name), timm.create_model(name.replace("winft", "vit"))
        shapes, expected = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, twin))
        assert shapes == expected, name
        assert model.pretrained_cfg["input_size"] == twin.pretrained_cfg["input_size"]
        assert all(type(block.attn) is WindowFreeAttention for block in model.blocks)


def test_the_pretrained_tags_equal_timms_vits() -> None:
    tags = set(timm.list_pretrained("*winft*")) - {"winft_mini_patch8_112.imagenette"}  # it has its own weights
    assert tags == {tag for name in VARIANTS for tag in (t.replace("vit", "winft") for t in twins(name))}
    assert "winft_base_patch16_224.augreg_in21k" in tags  # the checkpoint that the paper starts from
    for tag in tags:
        cfg, twin = timm.get_pretrained_cfg(tag), timm.get_pretrained_cfg(tag.replace("winft", "vit"))
        assert cfg.hf_hub_id == f"timm/{tag.replace('winft', 'vit')}" == twin.hf_hub_id
        for key in ("num_classes", "input_size", "mean", "std", "custom_load", "url", "first_conv", "classifier"):
            assert getattr(cfg, key) == getattr(twin, key), (tag, key)
    for name in VARIANTS:
        assert timm.get_pretrained_cfg(name).tag == timm.get_pretrained_cfg(name.replace("winft", "vit")).tag


def twins(name: str) -> list[str]:
    return timm.list_pretrained(f"{name.replace('winft', 'vit')}.*")


def test_vit_checkpoints_load_as_in_timm(tmp_path: Path) -> None:
    shape = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", **shape)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    overlay = {"file": str(tmp_path / "vit.safetensors"), "custom_load": False}

    def load(name: str, **options: Any) -> dict[str, Tensor]:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **shape, **options
        ).state_dict()

    loaded = load("winft_tiny_patch16_224")
    assert all(torch.equal(loaded[key], value) for key, value in vit.state_dict().items())
    # Position embedding resampled, input channels folded, classifier re-initialized.
    options = {"img_size": 96, "in_chans": 1, "num_classes": 7}
    loaded, expected = load("winft_tiny_patch16_224", **options), load("vit_tiny_patch16_224", **options)
    for key in set(loaded) - {"head.weight", "head.bias"}:
        torch.testing.assert_close(loaded[key], expected[key])
    assert loaded["head.weight"].shape == (7, 32)


def test_state_dicts_load_in_both_directions() -> None:
    vit, model = small("vit_tiny_patch16_224"), small()
    model.load_state_dict(vit.state_dict())
    vit.load_state_dict(model.state_dict())
    assert model.no_weight_decay() == vit.no_weight_decay()
    assert model.group_matcher() == vit.group_matcher()


@every_fill
@pytest.mark.parametrize("fused", [True, False])
def test_with_full_windows_it_equals_vit(monkeypatch: pytest.MonkeyPatch, fill: str, fused: bool) -> None:
    vit, model = small("vit_tiny_patch16_224"), small(window_fill=fill)
    model.load_state_dict(vit.state_dict())
    for one in (vit, model):
        for block in one.blocks:
            block.attn.fused_attn = fused
    assert (model(images()) - vit(images())).abs().max() > 1e-2

    def everything(logits: Tensor) -> Tensor:
        return torch.ones_like(logits, dtype=torch.bool)

    monkeypatch.setattr("vit_interactions.functional.window_free.window_free_mask", everything)
    monkeypatch.setattr(winft, "window_free_mask", everything)
    output, expected = model(images()), vit(images())
    if not fused:
        assert torch.equal(output, expected)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert_near(gradients(model, output), gradients(vit, expected))


@every_fill
def test_the_layer_stores_its_arguments_and_calls_the_function(fill: str) -> None:
    layer = WindowFreeAttention(8, num_heads=2, qk_norm=True, scale_norm=True, norm_layer=nn.LayerNorm).double()
    layer.num_prefix_tokens, layer.window_fill = 2, fill
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    query, key, value = layer.qkv(x).reshape(3, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    output = window_free_attention(layer.q_norm(query), layer.k_norm(key), value, 2, fill).output
    expected = layer.proj(layer.norm(output.transpose(1, 2).reshape(3, 6, 8)))
    torch.testing.assert_close(layer(x), expected)
    layer.fused_attn = False
    torch.testing.assert_close(layer(x), expected)


@every_fill
def test_the_unfused_path_agrees_and_passes_attn_drop(fill: str) -> None:
    model = small(window_fill=fill)
    with vi.record_windows(model) as record:
        output = model(images())
    expected = gradients(model, output, window_free_loss(record.logits, torch.eye(16).expand(2, 16, 16)))
    attentions: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: attentions.append(output))
    with vi.record_windows(model) as record:
        unfused = model(images())
    torch.testing.assert_close(unfused, output)
    assert_near(
        gradients(model, unfused, window_free_loss(record.logits, torch.eye(16).expand(2, 16, 16))), expected
    )
    assert [attention.shape for attention in attentions] == [(2, 2, 17, 17)] * 2
    for attention, mask in zip(attentions, record.masks, strict=True):
        outside = attention[:, :, 1:, 1:][~mask.unsqueeze(1).expand(2, 2, 16, 16)]
        assert (outside == 0).all() == (fill == "-inf")


def test_attention_dropout_is_drawn_in_training_only() -> None:
    for fill in WINDOW_FILLS:
        model = small(attn_drop_rate=0.5, window_fill=fill)
        assert torch.equal(model(images()), model(images()))
        model.train()
        assert not torch.allclose(model(images()), model(images()), atol=1e-3)


def supervised(model: nn.Module, parameters: nn.Module) -> tuple[Tensor, list[Tensor], Tensor]:
    """Output, gradients of output and window loss, and E_O of one step through a model or what wraps it."""
    targets = torch.eye(16, dtype=torch.bool).expand(2, 16, 16)
    with vi.record_windows(model) as record:
        output = model(images())
    return output, gradients(parameters, output, window_free_loss(record.logits, targets)), record.operations


@every_fill
def test_the_loss_reaches_queries_and_keys_only(fill: str) -> None:
    model = small(window_fill=fill)
    with vi.record_windows(model) as record:
        model(images())
    for layer, block in zip(record.logits, model.blocks, strict=True):
        loss = window_free_loss([layer], torch.ones(2, 16, 16))
        (gradient,) = torch.autograd.grad(loss, block.attn.qkv.weight)
        assert gradient[:64].abs().max() > 1e-4
        assert (gradient[64:] == 0).all()


def compiled(backend: str) -> Callable[[nn.Module], nn.Module]:
    # torch.compile breaks the graph at checkpointed blocks that record windows, which is harmless.
    return lambda model: torch.compile(model, backend=backend, fullgraph=not model.grad_checkpointing)


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [lambda model: model, compiled("eager"), compiled("aot_eager"), compiled_in_place, nn.DataParallel],
    ids=["plain", "eager", "aot_eager", "in_place", "data_parallel"],
)
def test_a_supervised_step_is_the_same_in_every_execution_mode(
    wrap: Callable[[nn.Module], nn.Module], checkpointing: bool
) -> None:
    torch.compiler.reset()
    model = small()
    output, expected, operations = supervised(model, model)
    model = small()
    model.set_grad_checkpointing(checkpointing)
    wrapped = wrap(model)
    for _ in range(2):
        again, found, counted = supervised(wrapped, model)
        torch.testing.assert_close(again, output)
        assert_near(found, expected)
        assert torch.equal(counted, operations)
        torch.testing.assert_close(wrapped(images()), output)
        assert all(block.attn.window_logits is None for block in model.blocks)


def test_distributed_data_parallel(tmp_path: Path) -> None:
    model = small()
    _, expected, operations = supervised(model, model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = small()
        wrapped = nn.parallel.DistributedDataParallel(model)
        targets = torch.eye(16).expand(2, 16, 16)
        with vi.record_windows(wrapped) as record:
            output = wrapped(images())
        # With backward(), because DDP does not support torch.autograd.grad.
        (output.square().mean() + window_free_loss(record.logits, targets)).backward()
        assert_near([parameter.grad for parameter in model.parameters()], expected)
        assert torch.equal(record.operations, operations)
    finally:
        torch.distributed.destroy_process_group()


def test_autocast_leaves_the_windows_in_float32() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16), vi.record_windows(model) as record:
        output = model(images())
    assert output.dtype == torch.bfloat16
    assert {logits.dtype for logits in record.logits} == {torch.float32}
    window_free_loss(record.logits, torch.ones(2, 16, 16)).backward()
    assert model.blocks[0].attn.qkv.weight.grad.isfinite().all()
    half = small().bfloat16()
    with vi.record_windows(half) as record:
        half(images().bfloat16())
    assert {logits.dtype for logits in record.logits} == {torch.float32}


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")  # attention Grad-CAM may find nothing
@every_fill
def test_explainers_support_it_or_raise_with_the_reason(fill: str) -> None:
    model = small(window_fill=fill)
    for name, explainer in vi.EXPLAINERS.items():
        target = 1 if explainer.class_specific else None
        options: dict[str, Any] = {"start": 1} if name in ("transition_attention", "beyond_intuition") else {}
        if explainer is vi.TransformerAttribution:
            with pytest.raises(
                vi.UnsupportedModelError, match=r"`blocks.0.attn`.*`window_free_attention`.* no rule"
            ):
                explainer(model).patch_map(images(), target)
        elif explainer in (vi.TokenAblation, vi.TIS):
            with pytest.raises(
                vi.UnsupportedModelError, match="window-free attention computes its windows from all"
            ):
                explainer(model).patch_map(images(), target)
        else:
            assert explainer(model, **options).patch_map(images(), target).shape == (2, 4, 4), name


def test_it_is_created_by_name_and_keyword() -> None:
    assert timm.is_model("winft_base_patch16_224")
    assert {block.attn.window_fill for block in timm.create_model("test_winft").blocks} == {"zero"}
    assert {block.attn.window_fill for block in small(window_fill="-inf").blocks} == {"-inf"}
    with pytest.raises(ValueError, match=r"`window_fill` must be one of 'zero', '-inf', got 'none'"):
        small(window_fill="none")
    with pytest.raises(ValueError, match=r"`attn_mask` and `is_causal` must be None and False"):
        small()(images(), attn_mask=torch.ones(17, 17, dtype=torch.bool))
    with pytest.raises((ValueError, TypeError), match="gated"):  # timm's own error before it had gates
        WindowFreeAttention(8, num_heads=2, gated=True)


def test_features() -> None:
    model = small()
    final, features = model.forward_intermediates(images(), norm=True)
    assert torch.equal(final, model.forward_features(images()))
    assert [feature.shape for feature in features] == [(2, 32, 4, 4)] * 2
    getter = timm.create_model("test_winft", features_only=True, out_indices=(1, 3))
    assert [feature.shape for feature in getter(torch.zeros(1, 3, 160, 160))] == [(1, 64, 10, 10)] * 2
    assert getter.feature_info.reduction() == [16, 16]
    assert FeatureInfo(model.feature_info, 2).channels() == [32, 32]
    assert model.prune_intermediate_layers(1) == [1]


@pytest.mark.parametrize(
    ("options", "size", "grid"),
    [
        ({"img_size": (48, 96)}, (48, 96), (3, 6)),
        ({"dynamic_img_size": True}, (80, 48), (5, 3)),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, (60, 90), (4, 6)),
        ({"patch_size": 8}, (64, 64), (8, 8)),
    ],
)
def test_sizes(options: dict[str, Any], size: tuple[int, int], grid: tuple[int, int]) -> None:
    model = small(**options)
    patches = grid[0] * grid[1]
    with torch.no_grad(), vi.record_windows(model) as record:
        assert model(images(2, *size)).shape == (2, 5)
    assert record.masks[0].shape == (2, patches, patches)
    assert vi.token_layout(model, size).grid == grid


def test_the_input_size_and_the_head_can_be_changed() -> None:
    model = small()
    model.set_input_size((96, 32))
    assert model(images(2, 96, 32)).shape == (2, 5)
    model.reset_classifier(7, "avg")
    assert model(images(2, 96, 32)).shape == (2, 7)
    model.reset_classifier(0, "")
    with vi.record_windows(model) as record:
        assert model(images(2, 96, 32)).shape == (2, 13, 32)
    assert record.masks[0].shape == (2, 12, 12)


def test_patch_dropout_leaves_windows_of_the_patches_left() -> None:
    model = small(patch_drop_rate=0.5).train()
    with vi.record_windows(model) as record:
        model(images())
    assert record.masks[0].shape == (2, 8, 8)


def test_saved_for_the_hub_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("test_winft", num_classes=5, window_fill="-inf").eval()
    _hub.save_for_hf(model, tmp_path, model_args={"window_fill": "-inf"}, safe_serialization=True)
    monkeypatch.setattr(_hub, "hf_hub_download", lambda repo_id, filename, **_: str(tmp_path / filename))
    inputs = torch.randn(1, 3, 160, 160)
    for source in (f"local-dir:{tmp_path}", "hf-hub:someone/winft"):
        loaded = timm.create_model(source, pretrained=True).eval()
        assert torch.equal(loaded(inputs), model(inputs)), source


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning")
@every_fill
def test_scripted_saved_and_exported(fill: str) -> None:
    model = small(window_fill=fill)
    scripted, kept = torch.jit.script(model), io.BytesIO()
    torch.jit.save(scripted, kept)
    kept.seek(0)
    with torch.no_grad():
        expected = model(images())
        torch.testing.assert_close(torch.jit.load(kept)(images()), expected)
        torch.testing.assert_close(torch.export.export(model, (images(),)).module()(images()), expected)


def test_timms_tracer_treats_it_as_a_leaf() -> None:
    assert WindowFreeAttention in get_notrace_modules()


@pytest.fixture(scope="module")
def labeled() -> tuple[Tensor, Tensor]:
    """Return the 200 images and their classes."""
    from PIL import Image

    if not (WEIGHTS.exists() and IMAGES.exists()):
        pytest.skip(f"needs {WEIGHTS} and {IMAGES}; set VIT_INTERACTIONS_DATA to the folder with the data")
    listed = (WEIGHTS.parent / "tiny_imagenet_200_classes.csv").read_text().splitlines()[1:]
    classes = {line.split(",")[1]: int(line.split(",")[0]) for line in listed}
    transform = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )
    paths = sorted(IMAGES.glob("*.jpg"))
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    return pixels, torch.tensor([classes[path.name.split("_")[0]] for path in paths])


@pytest.mark.parametrize(("fill", "known_accuracy"), [("zero", 0.57), ("-inf", 0.595)])
def test_a_trained_vit_keeps_most_of_its_accuracy(
    labeled: tuple[Tensor, Tensor], fill: str, known_accuracy: float
) -> None:
    model = timm.create_model("winft_tiny_patch16_224", num_classes=200, window_fill=fill).eval()
    model.load_state_dict(load_file(WEIGHTS))
    pixels, classes = labeled
    assert len(pixels) == 200
    right, shares = 0, []
    for part, truth in zip(pixels.split(25), classes.split(25), strict=True):
        with torch.no_grad(), vi.record_windows(model) as record:
            right += int((model(part).argmax(1) == truth).sum())
        shares.append(torch.stack([mask.float().mean((1, 2)) for mask in record.masks]))
    assert right / 200 == pytest.approx(known_accuracy, abs=0.01)
    if fill == "zero":
        # The fraction of pairs in the windows of the last 50 images, per block.
        known = [0.45, 0.55, 0.49, 0.55, 0.45, 0.50, 0.45, 0.46, 0.23, 0.12, 0.05, 0.06]
        found = torch.cat(shares, 1)[:, -50:].mean(1)
        torch.testing.assert_close(found, torch.tensor(known), rtol=0, atol=0.0075)


def test_blocks_with_their_own_attention_raise() -> None:
    with pytest.raises(ValueError, match="`block_fn` must build its attention with `attn_layer`"):
        timm.create_model("test_winft", block_fn=ParallelScalingBlock)
