"""AWD-ViT: attention within windows, compared with loops over single tokens; dropped patches; timm's conventions."""

import copy
import importlib
import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import ClassificationTask
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.functional.responsive_field import ResponsiveField, field_from_windows
from vit_interactions.models.adaptive_window import AdaptiveWindowViT, token_mask
from vit_interactions.training.teacher import WindowTeacher

GRID = (3, 4)
SHAPE: dict[str, Any] = {
    "img_size": (48, 64),
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


def small(name: str = "awd_vit_tiny_patch16_224", **options: Any) -> Any:
    """Return a float64 model with 3 x 4 patches and weights large enough for masks to matter."""
    torch.manual_seed(2)
    model = timm.create_model(name, **{**SHAPE, **options}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 48, 64, dtype=torch.float64)


def random_field(batch: int, grid: tuple[int, int] = GRID, share: float = 0.25) -> ResponsiveField:
    """Return fields with random windows around each patch, and random dropped patches."""
    rows, cols = grid
    patch = torch.arange(rows * cols).expand(batch, -1)
    x, y = patch % cols, patch // cols
    reach = torch.rand(4, *x.shape)
    bounds = (reach[0] * (x + 1), reach[1] * (y + 1), x + reach[2] * (cols - x), y + reach[3] * (rows - y))
    dropped = torch.rand(x.shape) < share
    return field_from_windows(torch.stack([b.floor().long() for b in bounds], -1), dropped, grid)


def open_field(batch: int, grid: tuple[int, int] = GRID) -> ResponsiveField:
    """Return fields that contain all patches."""
    rows, cols = grid
    windows = torch.tensor([0, 0, cols - 1, rows - 1]).expand(batch, rows * cols, 4)
    return field_from_windows(windows, torch.zeros(batch, rows * cols, dtype=torch.bool), grid)


def attends(t: int, s: int, window: list[int], dropped: list[bool], prefix: int, cols: int) -> bool:
    """Return whether token t attends to token s according to the paper (Secs. 4.1, 4.2)."""
    if t < prefix or s < prefix:
        return True  # prefix tokens attend to all and are attended by all
    p, i = t - prefix, s - prefix
    if p == i:
        return True
    left, top, right, bottom = window
    return left <= i % cols <= right and top <= i // cols <= bottom and not dropped[i]


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    mean = x.mean()
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean() + norm.eps) * norm.weight + norm.bias


def slow_features(model: Any, images: Tensor, field: ResponsiveField) -> Tensor:
    """Compute the tokens after the last block with loops over images, tokens and heads."""
    prefix, cols = model.num_prefix_tokens, field.grid[1]
    heads, width = model.blocks[0].attn.num_heads, model.blocks[0].attn.head_dim
    result = []
    for b, start in enumerate(model._pos_embed(model.patch_embed(images))):
        tokens = list(start)
        dropped = field.dropped[b].tolist()
        for block in model.blocks:
            tokens = [x * 0 if t >= prefix and dropped[t - prefix] else x for t, x in enumerate(tokens)]
            qkv = [block.attn.qkv(layer_norm(x, block.norm1)).view(3, heads, width) for x in tokens]
            attended = []
            for t, x in enumerate(tokens):
                window = field.windows[b, t - prefix].tolist()
                seen = [s for s in range(len(tokens)) if attends(t, s, window, dropped, prefix, cols)]
                z = []
                for h in range(heads):
                    weights = [torch.exp(qkv[t][0, h] @ qkv[s][1, h] / math.sqrt(width)) for s in seen]
                    total = torch.stack(weights).sum()
                    z.append(sum(w * qkv[s][2, h] for w, s in zip(weights, seen, strict=True)) / total)
                attended.append(x + block.attn.proj(torch.cat(z)))
            tokens = [x + block.mlp(layer_norm(x, block.norm2)) for x in attended]
        result.append(torch.stack([layer_norm(x, model.norm) for x in tokens]))
    return torch.stack(result)


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg", "fc_norm": False}]
)
def test_tokens_and_gradients_are_those_of_the_loops(images: Tensor, options: dict[str, Any]) -> None:
    model = small(**options)
    field = random_field(2)
    assert 0 < field.dropped.sum() < 24
    weight = torch.randn(SHAPE["embed_dim"], dtype=torch.float64)
    parameters = list(model.parameters())
    results = []
    for features in (model.forward_features(images, field), slow_features(model, images, field)):
        gradients = torch.autograd.grad((features.tanh() @ weight).sum(), parameters, allow_unused=True)
        results.append((features, [g for g in gradients if g is not None]))
    (fast, fast_grads), (slow, slow_grads) = results
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-9)
    assert len(fast_grads) == len(slow_grads) > 20
    for mine, theirs in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_open_windows_make_it_vit(images: Tensor, fused: bool) -> None:
    model, vit = small().eval(), small("vit_tiny_patch16_224").eval()
    vit.load_state_dict(model.state_dict())
    for module in [*model.modules(), *vit.modules()]:
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    torch.testing.assert_close(model(images, open_field(2)), vit(images), rtol=0, atol=1e-12)


def test_every_vit_checkpoint_of_the_shape_loads_strict() -> None:
    names = ("tiny_patch16_224", "small_patch16_224", "base_patch16_224", "base_patch32_224")
    for name, twin in [*((f"awd_vit_{n}", f"vit_{n}") for n in names), ("test_awd_vit", "test_vit")]:
        with torch.device("meta"):
            model, vit = timm.create_model(name), timm.create_model(twin)
        shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, vit))
        assert list(shapes.items()) == list(wanted.items())
    model, vit = timm.create_model("test_awd_vit"), timm.create_model("test_vit")
    model.load_state_dict(vit.state_dict(), strict=True)
    vit.load_state_dict(model.state_dict(), strict=True)


def test_they_are_registered_with_the_checkpoints_of_vit() -> None:
    names = timm.list_models("*awd_vit*")
    assert {"awd_vit_tiny_patch16_224", "awd_vit_small_patch16_224", "test_awd_vit"} <= {*names}
    assert {"awd_vit_base_patch16_224", "awd_vit_base_patch32_224"} <= {*names}
    starts = timm.list_models("awd_vit_base_patch16_224*", pretrained=True)
    assert "awd_vit_base_patch16_224.augreg_in21k" in starts
    cfg = timm.get_pretrained_cfg("awd_vit_base_patch16_224.augreg_in21k")
    assert (cfg.hf_hub_id, cfg.num_classes) == ("timm/vit_base_patch16_224.augreg_in21k", 21843)


def test_in_one_block_a_patch_depends_on_its_field_only(images: Tensor) -> None:
    model, field = small(depth=1).eval(), random_field(1, share=0.0)
    image = images[:1].requires_grad_()
    tokens = model.forward_features(image, field)
    for p in range(12):
        (gradient,) = torch.autograd.grad(tokens[0, 1 + p].sum(), image, retain_graph=True)
        seen = gradient[0].abs().sum(0).view(3, 16, 4, 16).sum((1, 3)).flatten() > 0
        assert torch.equal(seen, field.mask[0, p])
    (gradient,) = torch.autograd.grad(tokens[0, 0].sum(), image)  # the class token attends to all
    assert (gradient[0].abs().sum(0).view(3, 16, 4, 16).sum((1, 3)) > 0).all()


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_pixels_of_dropped_patches_do_not_matter_to_other_patches(images: Tensor, pool: str) -> None:
    model, field = small(global_pool=pool).eval(), random_field(2)
    other = images.clone()
    gone = field.dropped.view(2, 3, 1, 4, 1).expand(2, 3, 16, 4, 16).reshape(2, 1, 48, 64)
    other += gone * torch.randn_like(images)
    assert torch.equal(model(images, field), model(other, field))
    kept = images + ~gone * torch.randn_like(images)
    assert not torch.isclose(model(images, field), model(kept, field)).any()


def test_no_row_is_empty_when_all_patches_are_dropped_and_alone(images: Tensor) -> None:
    model = small(class_token=False, global_pool="avg")
    patch = torch.arange(12)
    windows = torch.stack([patch % 4, patch // 4, patch % 4, patch // 4], -1).expand(2, 12, 4)
    field = field_from_windows(windows, torch.ones(2, 12, dtype=torch.bool), GRID)
    output = model(images, field)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_prefix_tokens_attend_to_all_and_are_attended_by_all() -> None:
    field = random_field(2)
    mask = token_mask(field, prefix=3)
    assert mask.attended.shape == (2, 1, 15, 15)
    assert mask.attended[:, :, :3].all()
    assert mask.attended[..., :3].all()
    assert torch.equal(mask.attended[:, 0, 3:, 3:], field.mask)
    assert not mask.dropped[:, :3].any()
    assert torch.equal(mask.dropped[:, 3:, 0], field.dropped)


def test_the_attention_that_explainers_read_is_windowed(images: Tensor) -> None:
    model, field = small().eval(), random_field(2)
    with vi.record_attention(model) as record, torch.no_grad():
        model(images, field)
    for layer in range(2):
        attention = record.attention(layer)
        assert torch.equal(attention[:, :, 1:, 1:] > 0, field.mask.unsqueeze(1).expand(2, 3, 12, 12))
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 13, dtype=torch.float64))
    rollout = vi.AttentionRollout(model).patch_map(images, additional_forward_args=field)
    assert rollout.shape == (2, *GRID)


@pytest.fixture
def taught() -> Any:
    model = timm.create_model("test_awd_vit", num_classes=5)
    model.set_teacher(WindowTeacher(timm.create_model("test_vit"), alpha=0.05, beta=0.2))
    return model


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(2, 3, 160, 160)


@pytest.mark.parametrize("training", [True, False])
def test_a_teacher_gives_the_fields_at_training_and_test_time(taught: Any, batch: Tensor, training: bool) -> None:
    taught.train(training)
    field = taught.teacher(batch)
    assert torch.equal(taught(batch), taught(batch, field))
    assert not torch.allclose(taught(batch), taught(batch, open_field(2, (10, 10))), atol=1e-4)
    assert torch.equal(taught.field(batch).operations, field.mask.sum((1, 2)))
    assert not taught.teacher.training


def test_beta_0_is_awd_without_dip(taught: Any, batch: Tensor) -> None:
    taught.set_teacher(WindowTeacher(taught.teacher.model, alpha=0.05, beta=0.0))
    field = taught.field(batch)
    assert not field.dropped.any()
    left, top, right, bottom = field.windows.unbind(-1)
    assert torch.equal(field.size, (right - left + 1) * (bottom - top + 1))


def test_the_teacher_is_not_part_of_the_student(taught: Any, batch: Tensor) -> None:
    plain = timm.create_model("test_awd_vit", num_classes=5)
    assert taught.state_dict().keys() == plain.state_dict().keys()
    assert len(list(taught.parameters())) == len(list(plain.parameters()))
    assert len(list(taught.modules())) == len(list(plain.modules()))
    before = copy.deepcopy(taught.teacher.model.state_dict())
    task = ClassificationTask(taught, nn.CrossEntropyLoss(), verbose=False)
    optimizer = torch.optim.SGD(task.parameters(), lr=1.0)
    task(batch, torch.tensor([0, 1]))["loss"].backward()
    optimizer.step()
    assert not torch.equal(taught.head.weight, plain.head.weight)
    for name, value in taught.teacher.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_teacher_goes_where_the_student_goes(taught: Any, batch: Tensor) -> None:
    taught.double()
    assert {parameter.dtype for parameter in taught.teacher.parameters()} == {torch.float64}
    assert taught(batch.double()).dtype == torch.float64
    taught.to("meta")
    assert {parameter.device.type for parameter in taught.teacher.parameters()} == {"meta"}
    taught.set_teacher(None)
    taught.float()
    assert taught.teacher is None


def test_a_copy_and_a_saved_model_have_a_teacher(taught: Any, batch: Tensor) -> None:
    taught.eval()
    file = io.BytesIO()
    torch.save(taught, file)
    file.seek(0)
    for other in (copy.deepcopy(taught), torch.load(file, weights_only=False)):
        assert other.teacher is not taught.teacher
        assert torch.equal(other(batch), taught(batch))


def test_an_explainer_of_the_student_does_not_see_the_teacher(taught: Any, batch: Tensor) -> None:
    taught.eval()
    field = taught.field(batch)
    with vi.record_attention(taught) as record, torch.no_grad():
        taught(batch)
    assert [call.name for call in record.calls] == [f"blocks.{i}.attn" for i in range(6)]
    explainer = vi.InteractionUncertainty(taught)
    told = explainer.uncertainty(batch, additional_forward_args=field)
    assert torch.equal(explainer.uncertainty(batch), told)
    raw = vi.GMAR(taught).patch_map(batch, target=1)
    torch.testing.assert_close(raw, vi.GMAR(taught).patch_map(batch, 1, field))


def test_missing_teachers_and_wrong_fields_raise(images: Tensor) -> None:
    model = small()
    with pytest.raises(
        RuntimeError, match=r"AdaptiveWindowViT needs the windows of its images, but has no teacher"
    ):
        model(images)
    with pytest.raises(RuntimeError, match="has no teacher"):
        model.field(images)
    with pytest.raises(ValueError, match="model's grid of 3 x 4 patches, got 4 x 3"):
        model(images, random_field(2, (4, 3)))
    with pytest.raises(ValueError, match="must have 2 images, like the batch, got 1"):
        model(images, random_field(1))
    with pytest.raises(ValueError, match="`attn_mask` must be None, got a mask"):
        model.forward_intermediates(images, field=random_field(2), attn_mask=torch.ones(13, 13))
    with pytest.raises(ValueError, match=r"`patch_drop_rate` must be 0 .*, got 0\.5"):
        small(patch_drop_rate=0.5)
    model.set_teacher(WindowTeacher(small("vit_tiny_patch16_224", patch_size=8), 0.1, 0.2))
    with pytest.raises(ValueError, match="model's grid of 3 x 4 patches, got 6 x 8"):
        model(images)


def test_intermediate_features(images: Tensor) -> None:
    model, field = small().eval(), random_field(2)
    final, (first, last) = model.forward_intermediates(images, field=field, norm=True)
    assert torch.equal(final, model.forward_features(images, field))
    assert first.shape == last.shape == (2, 24, 3, 4)
    assert torch.equal(last.flatten(2).transpose(1, 2), final[:, 1:])
    model.set_teacher(lambda x: field)
    (tokens,) = model.get_intermediate_layers(images, n=1, norm=True)
    assert torch.equal(tokens, final[:, 1:])


def test_features_only(taught: Any, batch: Tensor) -> None:
    extractor = timm.create_model("test_awd_vit", features_only=True, out_indices=(-1,))
    extractor.model.set_teacher(taught.teacher)
    assert [tuple(part.shape) for part in extractor(batch)] == [(2, 64, 10, 10)]


def test_gradient_checkpointing_recomputes_and_changes_nothing(images: Tensor) -> None:
    field, gradients, runs = random_field(2), [], []
    for enable in (False, True):
        model = small().train()
        model.set_grad_checkpointing(enable)
        calls: list[int] = []
        model.blocks[0].attn.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        model(images, field).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=1e-12)


def test_compiled_it_is_one_graph_and_a_teacher_stays_outside(taught: Any, batch: Tensor) -> None:
    taught.eval()
    field = taught.field(batch)
    expected = taught(batch, field).detach()
    whole = torch.compile(taught, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(batch, field).detach(), expected)
    torch._dynamo.reset()
    with_teacher = torch.compile(taught, backend="eager")
    torch.testing.assert_close(with_teacher(batch).detach(), expected)
    torch._dynamo.reset()


def test_mixed_precision(taught: Any, batch: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = taught(batch)
    F.cross_entropy(output.float(), torch.tensor([0, 1])).backward()
    assert output.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in taught.parameters())


def test_sizes_and_heads_are_timms(taught: Any) -> None:
    taught.eval()
    wide = torch.randn(1, 3, 96, 160)  # dynamic sizes: test_vit takes any
    assert taught.field(wide).grid == (6, 10)
    assert taught(wide).shape == (1, 5)
    taught.reset_classifier(7)
    assert taught(wide).shape == (1, 7)
    model = small()
    model.set_input_size((64, 64))
    assert model(torch.randn(1, 3, 64, 64).double(), random_field(1, (4, 4))).shape == (1, 5)
    assert isinstance(model, AdaptiveWindowViT)
    assert {"pos_embed", "cls_token"} <= model.no_weight_decay()


def test_it_learns(images: Tensor) -> None:
    model, field = small(depth=1), random_field(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(images, field), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_custom_name_creates_a_model_with_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: Tensor
) -> None:
    # What timm's train.py does with `--device-modules my_awd --model my_awd_vit`.
    (tmp_path / "my_awd.py").write_text(
        "import timm\n"
        "from vit_interactions.training.teacher import WindowTeacher\n"
        "@timm.models.register_model\n"
        "def my_awd_vit(pretrained=False, **options):\n"
        "    model = timm.create_model('test_awd_vit', pretrained=pretrained, **options)\n"
        "    model.set_teacher(WindowTeacher(timm.create_model('test_vit'), alpha=0.05))\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("my_awd")
    try:
        model = timm.create_model("my_awd_vit", pretrained=False, num_classes=3, drop_path_rate=0.1)
        assert model(batch).shape == (2, 3)
        assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    finally:
        getattr(timm.models._registry, "_clear_model_entries", lambda name: None)("my_awd_vit")
        timm.models._registry._model_entrypoints.pop("my_awd_vit")
        sys.modules.pop("my_awd")


def test_a_teacher_that_no_pass_has_run_yet_is_no_cut_gradient() -> None:
    # The first pass of the student probes the teacher, later ones remember: what is run twice is not the same.
    images = torch.randn(1, 3, 64, 64)
    student: Any = timm.create_model("awd_vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5).eval()
    teacher = WindowTeacher(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3), alpha=0.05)
    student.set_teacher(teacher)
    by_teacher = vi.AttentionRollout(student).patch_map(images)
    student.set_teacher(None)
    by_field = vi.AttentionRollout(student).patch_map(images, additional_forward_args=teacher(images))
    torch.testing.assert_close(by_teacher, by_field)
