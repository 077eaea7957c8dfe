"""Test that cut gradients raise errors that name the module, and that layers without effect get zero gradients."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vit_interactions_adapters.methods import METHODS

import vit_interactions as vi
from tests.helpers.families import tiny
from vit_interactions.attention.derivatives import check_differentiable, quantized_module
from vit_interactions.explain.registry import all_methods

# Without gradients the declared layout is used, with a warning before the method's error.
pytestmark = pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")

# Methods that take gradients; of those of other libraries, what is left out takes none.
GRADIENTS = [
    name
    for name, method in all_methods().items()
    if method.class_specific and method.backwards and name not in ("occlusion", "feature_ablation", "random_map")
]
LAYERWISE = [name for name in GRADIENTS if name in vi.EXPLAINERS]


def small_vit(**options: Any) -> Any:
    """Build a ViT of 4 x 4 patches and three layers."""
    return tiny("vit_tiny_patch16_224", img_size=64, **{"depth": 3, "global_pool": "avg", **options})


def images() -> Tensor:
    """Random images."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Through(nn.Module):
    """A module whose output is changed by a function."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Take the module and the change."""
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run and change."""
        return self.change(self.inner(*args, **kwargs))


class WithoutGraph(nn.Module):
    """A model that runs under `torch.no_grad`."""

    num_prefix_tokens, global_pool = 1, "avg"

    def __init__(self, model: Any) -> None:
        """Take the model."""
        super().__init__()
        self.model = model
        self.num_classes, self.patch_embed, self.blocks = model.num_classes, model.patch_embed, model.blocks

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        result: Tensor = self.model(x)
        return result


def quantized(model: nn.Module) -> nn.Module:
    """Copy a model with dynamically quantized linear layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this way
        result: nn.Module = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return result


@pytest.mark.parametrize("name", GRADIENTS)
def test_quantized_models_are_refused_by_name(name: str) -> None:
    with pytest.raises(
        vi.UnsupportedModelError, match=r"`blocks.0.attn.qkv` is quantized, so it has no derivative"
    ):
        all_methods()[name](quantized(small_vit())).patch_map(images(), 1)


def test_methods_without_gradients_explain_quantized_models() -> None:
    for name in ("attention_rollout", "raw_attention", "interaction_uncertainty"):
        assert vi.EXPLAINERS[name](quantized(small_vit())).patch_map(images()).isfinite().all()


def test_a_quantized_mlp_alone_is_refused_though_every_attention_gets_some_gradient() -> None:
    model = small_vit()
    model.blocks[1].mlp = quantized(model.blocks[1].mlp)
    with pytest.raises(vi.UnsupportedModelError, match=r"`blocks.1.mlp.fc1` is quantized"):
        vi.GenericAttention(model).patch_map(images(), 1)
    assert quantized_module(small_vit()) is None


def test_torchao_dynamic_quantization_is_refused() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = small_vit(embed_dim=64, num_heads=2)
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    for name in ("generic_attention", "transformer_attribution", "attn_lrp", "legrad"):
        with pytest.raises(vi.UnsupportedModelError, match=r"`blocks.0.attn.qkv` is quantized"):
            vi.EXPLAINERS[name](model).patch_map(images(), 1)


@pytest.mark.parametrize("name", GRADIENTS)
def test_detached_outputs_are_refused(name: str) -> None:
    model = small_vit()
    model.head = Through(model.head, torch.detach)
    with pytest.raises(vi.UnsupportedModelError, match="detaches"):
        all_methods()[name](model).patch_map(images(), 1)


@pytest.mark.parametrize("name", LAYERWISE)
def test_models_that_run_without_a_graph_are_refused(name: str) -> None:
    with pytest.raises(
        vi.UnsupportedModelError,
        match=r"runs under `torch.no_grad`|no gradient with respect|does not depend on the image",
    ):
        vi.EXPLAINERS[name](WithoutGraph(small_vit())).patch_map(images(), 1)


@pytest.mark.parametrize("name", [name for name in LAYERWISE if name not in ("legrad", "attn_lrp")])
def test_a_gradient_that_is_cut_between_layers_is_refused_by_name(name: str) -> None:
    model = small_vit()
    model.blocks[1] = Through(model.blocks[1], torch.detach)
    with pytest.raises(
        vi.UnsupportedModelError,
        match=r"does not reach the image|no gradient with respect|does not depend on the image|for which DAAM",
    ):
        vi.EXPLAINERS[name](model).patch_map(images(), 1)


@pytest.mark.parametrize("name", ["legrad", "attn_lrp", "saliency", "integrated_gradients", "layer_grad_cam"])
def test_other_methods_refuse_a_cut_on_their_way(name: str) -> None:
    model = small_vit()
    model.blocks[-1] = Through(model.blocks[-1], torch.detach)
    with pytest.raises(
        vi.UnsupportedModelError,
        match=r"detaches|no gradient with respect|does not depend on the image",
    ):
        all_methods()[name](model).patch_map(images(), 1)


class EarlyExit(nn.Module):
    """A block whose output is discarded: its input is passed on."""

    def __init__(self, block: nn.Module) -> None:
        """Store the block."""
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """Run the block and return its input."""
        self.block(x)
        return x


def test_layers_that_the_answer_is_not_read_from_count_as_zero() -> None:
    model, inputs = small_vit(), images()
    expected = vi.GenericAttention(small_vit(depth=2)).patch_map(inputs, 1)
    for place in (1, 2):
        model = small_vit(depth=3)
        blocks = list(small_vit(depth=2).blocks)
        blocks.insert(place, EarlyExit(model.blocks[2]))
        model.blocks, model.head = nn.Sequential(*blocks), small_vit(depth=2).head
        shared = small_vit(depth=2).state_dict()
        shared = {key: value for key, value in shared.items() if not key.startswith("blocks")}
        model.load_state_dict(shared, strict=False)
        seen = vi.probe(model, inputs).structure
        assert seen is not None
        assert seen.ignored == (place,)
        torch.testing.assert_close(vi.GenericAttention(model).patch_map(inputs, 1), expected)


def test_what_is_differentiable() -> None:
    x, unused = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(3, requires_grad=True)
    check_differentiable(nn.Identity(), (x**2).sum(), x)
    check_differentiable(nn.Identity(), (x * 2 * x).sum(), x)
    with pytest.raises(vi.UnsupportedModelError, match="the score has no gradient: the model detaches"):
        check_differentiable(nn.Identity(), x.detach().sum())
    with pytest.raises(vi.UnsupportedModelError, match="does not reach the image"):
        check_differentiable(nn.Identity(), x.sum(), unused)


@pytest.mark.parametrize("name", ["transformer_attribution", "attn_lrp"])
def test_lora_layers_are_to_be_merged_first(name: str) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["qkv", "fc1"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(small_vit(), config).eval()
    expected = {key: value for key, value in adapted.named_parameters()}
    with pytest.raises(
        vi.UnsupportedModelError, match=r"`.*blocks.0.attn.qkv` adds a LoRA adapter .* Merge the LoRA"
    ):
        vi.EXPLAINERS[name](adapted).patch_map(images(), 1)
    # The merged weights by hand: W + B A · alpha / r.
    by_hand = small_vit()
    with torch.no_grad():
        for layer, module in by_hand.named_modules():
            if isinstance(module, nn.Linear) and layer.rpartition(".")[2] in ("qkv", "fc1"):
                prefix = f"base_model.model.{layer}"
                a, b = (expected[f"{prefix}.lora_{part}.default.weight"] for part in "AB")
                module.weight.copy_(expected[f"{prefix}.base_layer.weight"] + b @ a * config.lora_alpha / config.r)
    wanted = vi.EXPLAINERS[name](by_hand).patch_map(images(), 1)
    adapted.merge_adapter()
    torch.testing.assert_close(vi.EXPLAINERS[name](adapted).patch_map(images(), 1), wanted, rtol=1e-3, atol=1e-6)
    adapted.unmerge_adapter()
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(vi.EXPLAINERS[name](merged).patch_map(images(), 1), wanted, rtol=1e-3, atol=1e-6)


def test_every_gradient_method_of_other_libraries_is_tried() -> None:
    assert {"saliency", "integrated_gradients", "gradcam", "hirescam"} <= set(GRADIENTS) & set(METHODS)
