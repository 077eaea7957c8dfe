"""transformers' vision towers without special support: eager and fused attention agree, merge order is corrected."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

import vit_interactions as vi
from tests.helpers.explaining import assert_near
from tests.helpers.foreign import redraw

SIZE = (64, 64)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
IMAGE: dict[str, Any] = {**SMALL, "image_size": 64, "patch_size": 16}
LABELED: dict[str, Any] = {**IMAGE, "num_labels": 5}


class Flattened(nn.Module):
    """SigLIP 2, which takes flattened patches row by row, as a model that takes images."""

    def __init__(self, tower: nn.Module) -> None:
        """Take the tower."""
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        """Flatten the patches."""
        batch, channels, rows, cols = *images.shape[:2], images.shape[2] // 16, images.shape[3] // 16
        patches = (
            images.reshape(batch, channels, rows, 16, cols, 16).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        )
        mask = torch.ones(batch, rows * cols, dtype=torch.long)
        output: Tensor = self.tower(patches, mask, torch.tensor([[rows, cols]] * batch)).pooler_output
        return output


class Merged(nn.Module):
    """Qwen's towers, which take flattened patches in blocks of 2 x 2, as a model that takes images."""

    def __init__(self, tower: Any) -> None:
        """Take the tower."""
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        """Flatten the patches, four neighbors after each other; each is a film of twice the image."""
        batch, channels, height, width = images.shape
        rows, cols = height // 14, width // 14
        blocks = (
            images[:, None]
            .expand(-1, 2, -1, -1, -1)
            .reshape(batch, 2, channels, rows // 2, 2, 14, cols // 2, 2, 14)
        )
        patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(batch * rows * cols, -1)
        output: Tensor = self.tower(patches, torch.tensor([[1, rows, cols]] * batch)).pooler_output
        return output.unflatten(0, (batch, -1)).mean(1)


def qwen2_5_vl(**options: Any) -> nn.Module:
    config = Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=48, window_size=56, **options
    )
    return Merged(qwen2_5.Qwen2_5_VisionTransformerPretrainedModel(config))


TOWERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**LABELED)),
        "1 prefix token, read from: class token",
    ),
    "deit": (
        lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**LABELED)),
        "2 prefix tokens, read from: class token and distillation token",
    ),
    "beit": (
        lambda: hf.BeitForImageClassification(hf.BeitConfig(**LABELED)),
        "1 prefix token, read from: mean of the patches",
    ),
    "dinov2": (
        lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**LABELED)),
        "1 prefix token, read from: class token and mean of the patches",
    ),
    "dinov3": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**IMAGE, num_register_tokens=4)),
        "5 prefix tokens, read from: class token",
    ),
    "clip": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**IMAGE)),
        "1 prefix token, read from: class token",
    ),
    "siglip": (
        lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**IMAGE)),
        "0 prefix tokens, read from: attention pooling",
    ),
    "metaclip2": (
        lambda: hf.MetaClip2VisionModelWithProjection(hf.MetaClip2VisionConfig(**IMAGE)),
        "1 prefix token, read from: class token",
    ),
    "aimv2": (
        lambda: hf.Aimv2VisionModel(hf.Aimv2VisionConfig(**IMAGE)),
        "0 prefix tokens, read from: attention pooling",
    ),
    "siglip2": (
        lambda: Flattened(hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**SMALL, patch_size=16, num_patches=16))),
        "0 prefix tokens, read from: attention pooling",
    ),
}


def with_attention(model: nn.Module, implementation: str) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, hf.PreTrainedModel):
            module.set_attn_implementation(implementation)
    return twin


@pytest.mark.parametrize("name", TOWERS)
def test_eager_and_fused_attention_are_seen_alike(name: str) -> None:
    build, sentence = TOWERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = redraw(build())
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    eager, fused = (with_attention(model, kind) for kind in ("eager", "sdpa"))
    assert str(vi.probe(eager, SIZE)) == f"4 x 4 patches of 16 x 16 px, {sentence}, 2 layers in series"
    assert str(vi.probe(fused, SIZE)) == str(vi.probe(eager, SIZE))
    for method in (vi.AttentionRollout, vi.GenericAttention):
        explain = [method(twin).patch_map(images, **_target(method)) for twin in (eager, fused)]
        assert_near(explain[0], explain[1], 1e-5)
        assert explain[1].std() > 0


def _target(method: type[vi.Explainer]) -> dict[str, Any]:
    return {"target": _score} if method.class_specific else {}


def _score(output: Any) -> Tensor:
    """The second class or feature of what is read."""
    found = output if isinstance(output, Tensor) else output.get("logits", output.get("image_embeds"))
    return (output.pooler_output if found is None else found)[:, 1]


def in_blocks(rows: int, cols: int) -> tuple[int, ...]:
    """Return the position of each patch in the order of 2 x 2 blocks, by counting."""
    places = {}
    for row in range(0, rows, 2):
        for col in range(0, cols, 2):
            for patch in ((row, col), (row, col + 1), (row + 1, col), (row + 1, col + 1)):
                places[patch] = len(places)
    return tuple(places[row, col] for row in range(rows) for col in range(cols))


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5"])
def test_blocks_of_patches_are_put_in_rows(kind: str) -> None:
    config = Qwen2VLVisionConfig(depth=2, embed_dim=32, hidden_size=48, num_heads=2, mlp_ratio=2)
    model = redraw(
        Merged(qwen2.Qwen2VisionTransformerPretrainedModel(config))
        if kind == "qwen2"
        else qwen2_5_vl(fullatt_block_indexes=[0, 1])
    )
    layout = vi.probe(model, (56, 84)).layout
    assert layout.grid == (4, 6)
    assert layout.extent == (56, 84)
    if kind == "qwen2":
        assert layout.order == in_blocks(4, 6)
    assert vi.InteractionUncertainty(model).patch_map(torch.rand(1, 3, 56, 84)).shape == (1, 4, 6)


@pytest.mark.parametrize("full", [[], [1]])
@pytest.mark.parametrize("size", [(56, 84), (112, 112)])
def test_qwen2_5_windows_raise_and_are_named(size: tuple[int, int], full: list[int]) -> None:
    model = qwen2_5_vl(fullatt_block_indexes=full).eval()
    with pytest.raises(vi.UnsupportedModelError, match=r"blocks\.0\.attn"):
        vi.probe(model, size)
