"""DAAM: the decomposition, the accumulation and the memory bank."""

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import FAMILIES
from vit_interactions.explain.memory_bank import dimension_weights
from vit_interactions.functional.accumulated_attention import block_evidence, display_frames


@pytest.fixture
def images() -> Tensor:
    return FAMILIES["vit"].images().double()


@pytest.mark.parametrize("family_name", ["vit", "dinov2_reg4", "rope_mixed", "hybrid"])
def test_frames_equal_the_definition(family_name: str) -> None:
    family = FAMILIES[family_name]
    model, images = family.build().double().eval(), family.images().double()
    with vi.record_attention(model) as record:
        output = model(images.clone().requires_grad_())
    gradients = record.output_grads(output[:, 1])
    total = torch.zeros(images.shape[0], *family.grid, dtype=torch.float64)
    frames = vi.DynamicAccumulatedAttention(model).frames(images, target=1)
    assert frames.shape == (images.shape[0], len(record.calls), *family.grid)
    for layer, (call, gradient) in enumerate(zip(record.calls, gradients, strict=True)):
        attention = call.attention()
        # F[j, (h, k)] = A_h[0, j] V_h[j, k]; it sums to the class token's row of z
        evidence = attention[:, :, 0, :, None] * call.value
        assert torch.allclose(evidence.sum(2), call.output[:, :, 0])
        importance = gradient[:, :, 0].clamp(min=0)
        block = (evidence * importance[:, :, None]).sum((1, 3))[:, family.prefix :]
        total += block.clamp(min=0).reshape(-1, *family.grid)
        assert torch.allclose(frames[:, layer], total)
        # without rectification the block is the class row of gradient x attention
        unrectified = block_evidence(attention[:, :, :1], gradient[:, :, :1], call.value, rectify=False)
        assert torch.allclose(unrectified, (attention * call.attention_grad(gradient))[:, :, 0].sum(1))
    assert torch.equal(vi.DynamicAccumulatedAttention(model).patch_map(images, target=1), frames[:, -1])
    assert (frames.diff(dim=1) >= 0).all()
    assert frames.max() > 0


def test_one_linear_block_explains_the_logit_exactly() -> None:
    model = FAMILIES["vit"].build().double().eval()
    model.blocks = model.blocks[:1]
    model.blocks[0].mlp = nn.Identity()
    model.blocks[0].norm2 = nn.Identity()
    model.blocks[0].ls2 = nn.Identity()
    # x + mlp(norm2(x)) with an MLP of zeros
    model.blocks[0].mlp = type("Zero", (nn.Module,), {"forward": lambda self, x: torch.zeros_like(x)})()
    model.norm = nn.Identity()
    images = FAMILIES["vit"].images().double()
    explainer = vi.DynamicAccumulatedAttention(model, rectify=False)
    seen = explainer._backtrace(images, 2, None)
    [layer] = list(seen.layers())
    evidence = block_evidence(
        layer.attention()[:, :, :1], layer.output_gradient[:, :, :1], layer.call.value, rectify=False
    )
    before = model(images)[:, 2]
    model.blocks[0].attn.proj.weight.data.zero_()
    after = model(images)[:, 2]
    assert torch.allclose(evidence.sum(1), before - after)


def test_scale_of_the_score_and_blocks_scaled_before(model: nn.Module, images: Tensor) -> None:
    explainer = vi.DynamicAccumulatedAttention(model)
    frames = explainer.frames(images, target=1)
    tripled = explainer.frames(images, target=lambda output: 3 * output[:, 1])
    assert torch.allclose(tripled, 3 * frames)
    assert torch.allclose(display_frames(tripled.flatten(2)), display_frames(frames.flatten(2)))
    normed = vi.DynamicAccumulatedAttention(model, norm_blocks=True).frames(images, target=1)
    blocks = torch.cat((frames[:, :1], frames.diff(dim=1)), 1).flatten(2)
    lowest, highest = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    scaled = ((blocks - lowest) / (highest - lowest)).nan_to_num()
    assert torch.allclose(normed.flatten(2), scaled.cumsum(1))


@pytest.mark.parametrize("family_name", ["distilled", "dinov3", "siglip", "beit"])
def test_other_readouts_only_when_asked_for(family_name: str) -> None:
    family = FAMILIES[family_name]
    model, images = family.build().eval(), family.images()
    with pytest.raises(vi.UnsupportedModelError, match=r"class token alone .* `readout=\"model\"`"):
        vi.DynamicAccumulatedAttention(model).patch_map(images, target="pred")
    result = vi.DynamicAccumulatedAttention(model, readout="model").patch_map(images, target="pred")
    assert result.shape == (2, *family.grid)
    assert result.max() > 0


def test_dimension_weights_by_hand() -> None:
    # q = (.48, .32) / ... = mean of f * z: ((.6 + .36) / 2, (0 + .64) / 2)
    weights = dimension_weights(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    assert weights.tolist() == [1.0, 0.0]
    assert dimension_weights(torch.tensor([1.0, 1.0]), torch.tensor([[1.0, 1.0]])).tolist() == [1.0, 1.0]


def test_the_memory_bank_votes_by_similarity() -> None:
    near, far = [1.0, 0.1, 0.0], [0.9, 0.0, 0.5]
    bank = vi.MemoryBank(torch.tensor([near, far, far, [-1.0, 0.0, 0.0]]), torch.tensor([4, 9, 9, 1]), neighbors=3)
    feature = torch.tensor([1.0, 0.0, 0.0])
    unit = torch.nn.functional.normalize(torch.tensor([near, far]), dim=1)
    votes = (unit @ feature / 0.07).exp()
    winner = 4 if votes[0] > 2 * votes[1] else 9
    expected = dimension_weights(feature, torch.tensor([near if winner == 4 else far]))
    assert torch.allclose(bank.weights(feature), expected)
    everyone = vi.MemoryBank(torch.tensor([near, far]), neighbors=20)
    assert torch.allclose(everyone.weights(feature), dimension_weights(feature, torch.tensor([near, far])))


def test_self_supervised_maps_follow_the_neighbors() -> None:
    family = FAMILIES["vit"]
    model, images = family.build(), family.images(4)
    model.reset_classifier(0)
    model.eval()
    features = model(images).detach()
    bank = vi.MemoryBank.build(model, [(images, torch.tensor([0, 0, 1, 1]))], neighbors=2)
    explainer = vi.DynamicAccumulatedAttention(model, rectify=False)
    result = explainer.patch_map(images, target=bank)
    for index in range(4):
        weights = bank.weights(features[index])
        alone = explainer.patch_map(images[index : index + 1], target=lambda output, w=weights: output @ w)
        assert torch.allclose(result[index], alone[0], atol=1e-6)
    assert result.max() > 0
    with pytest.raises(ValueError, match="must contain at least one batch"):
        vi.MemoryBank.build(model, [])
    with pytest.raises(ValueError, match=r"`features` must have shape \(references, width\)"):
        vi.MemoryBank(torch.zeros(3))
    with pytest.raises(ValueError, match=r"`labels` must have shape \(3,\), one per reference"):
        vi.MemoryBank(torch.ones(3, 2), torch.zeros(2))
