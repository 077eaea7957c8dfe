"""Tests of the teacher: fields equal to the equations, and a frozen model in all settings."""

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers import references
from vit_interactions.functional.attention_sinks import AttentionSinks
from vit_interactions.functional.responsive_field import ResponsiveField, field_from_windows
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.utilities.checksum import checksum

ALPHA, BETA = 0.15, 0.25

PARTS = ("windows", "dropped")

GRID = (3, 4)


def small_vit(**options: object) -> nn.Module:
    """Return a ViT of 3 x 4 patches whose attention is far from uniform."""
    torch.manual_seed(1)
    shape = {"img_size": (48, 64), "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **{**shape, **options})
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(20)
    return model


@pytest.fixture
def teacher() -> WindowTeacher:
    return WindowTeacher(small_vit(), ALPHA, BETA)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 48, 64)


def sets(mask: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def same(first: ResponsiveField, second: ResponsiveField) -> bool:
    parts = ("windows", "dropped", "mask")
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in parts)


def test_fields_are_those_of_the_equations(teacher: WindowTeacher, images: Tensor) -> None:
    teacher.double()
    with vi.record_attention(teacher.model) as record, torch.no_grad():
        teacher.model(images.double())
    u = references.uncertainty([call.attention() for call in record.calls], prefix=1)
    field = teacher(images.double())
    assert field.grid == GRID
    for b in range(2):
        assert sets(field.mask[b]) == references.fields(u[b].tolist(), GRID, ALPHA, BETA)
        assert sets(field.dropped[b : b + 1])[0] == references.dropped(u[b].tolist(), BETA)


def test_windows_cover_the_fraction_of_the_teacher(images: Tensor) -> None:
    model = small_vit()
    explainer = vi.InteractionUncertainty(model)
    field = WindowTeacher(model, ALPHA, BETA, coverage=0.5)(images)
    assert same(field, vi.responsive_field(explainer.uncertainty(images), GRID, ALPHA, BETA, coverage=0.5))
    assert not same(field, WindowTeacher(model, ALPHA, BETA)(images))
    with pytest.raises(ValueError, match=r"`coverage` must lie in \[0, 1\], got 2"):
        WindowTeacher(model, coverage=2)


def test_excluded_sinks_are_relevant_to_no_other_patch(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    sink = torch.zeros(2, 12, dtype=torch.bool)
    sink[0, 3] = sink[1, 7] = True
    monkeypatch.setattr(AttentionSinks, "patches", property(lambda self: sink))
    field = WindowTeacher(model, ALPHA, BETA, exclude_sinks=True)(images)
    uncertainty = vi.InteractionUncertainty(model).uncertainty(images)
    assert same(field, vi.responsive_field(uncertainty, GRID, ALPHA, BETA, exclude=sink))
    assert not same(field, WindowTeacher(model, ALPHA, BETA)(images))


def test_teacher_sees_unchanged_images_independently(teacher: WindowTeacher, images: Tensor) -> None:
    field = teacher(images)
    alone = [teacher(image[None]) for image in images]
    assert same(field, field_from_windows(*(torch.cat([getattr(f, p) for f in alone]) for p in PARTS), GRID))
    assert not same(field, teacher(images.flip(-1)))


def test_the_teacher_is_frozen() -> None:
    teacher = WindowTeacher(small_vit(drop_path_rate=0.9, proj_drop_rate=0.9), ALPHA, BETA)
    images = torch.randn(2, 3, 48, 64, requires_grad=True)
    field = teacher(images)
    assert teacher.train() is teacher
    assert not any(module.training for module in teacher.modules())
    assert same(field, teacher(images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(part.requires_grad for part in (field.windows, field.dropped, field.mask))


def test_call_leaves_the_model_unchanged(teacher: WindowTeacher, images: Tensor) -> None:
    before, weights = torch.get_rng_state(), checksum(teacher.model)
    teacher(images)
    assert torch.equal(before, torch.get_rng_state())
    assert checksum(teacher.model) == weights
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        inside = teacher(images)
    assert same(inside, teacher(images))


def test_under_autocast_the_model_runs_in_half_precision_and_drops_as_many(
    teacher: WindowTeacher, images: Tensor
) -> None:
    types = set()
    teacher.model.blocks[0].attn.qkv.register_forward_hook(lambda module, args, output: types.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        field = teacher(images)
    assert types == {torch.bfloat16}
    assert field.dropped.sum(1).tolist() == [3, 3]
    assert field.candidates is not None
    assert (field.candidates.sum((1, 2)) >= round(ALPHA * 144)).all()
    exact = teacher(images)
    assert (field.mask == exact.mask).float().mean() > 0.8


def test_a_half_precision_teacher(teacher: WindowTeacher, images: Tensor) -> None:
    teacher.bfloat16()
    assert teacher(images.bfloat16()).mask.shape == (2, 12, 12)


def test_copy_has_its_own_model(teacher: WindowTeacher, images: Tensor) -> None:
    field = teacher(images)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert same(other(images), field)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not same(other(images), field)
    assert same(teacher(images), field)


def test_wrappers_are_unwrapped(images: Tensor) -> None:
    model = small_vit()
    wrapped = WindowTeacher(nn.DataParallel(model), ALPHA, BETA)
    assert wrapped.model is model
    assert same(wrapped(images), WindowTeacher(model, ALPHA, BETA)(images))


def test_grid_and_invalid_arguments(teacher: WindowTeacher) -> None:
    assert teacher.grid((48, 64)) == GRID
    with pytest.raises(ValueError, match=r"got 3 x 64 x 64 .*match model"):
        teacher(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\], got 1.5"):
        WindowTeacher(small_vit(), alpha=1.5)
    with pytest.raises(ValueError, match=r"`beta` must lie in \[0, 1\], got -0.1"):
        WindowTeacher(small_vit(), beta=-0.1)
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn.Module, got str"):
        WindowTeacher("vit_tiny_patch16_224")  # type: ignore[arg-type]
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(1, 1, 1, 1))
    with pytest.raises(vi.UnsupportedModelError):
        WindowTeacher(swin)(torch.zeros(1, 3, 56, 56))


def test_fields_from_windows_with_wrong_shapes_raise() -> None:
    windows, dropped = torch.zeros(2, 12, 4, dtype=torch.uint8), torch.zeros(2, 12, dtype=torch.bool)
    assert field_from_windows(windows, dropped, GRID).mask.sum() == 2 * (12 + 11)  # patch 0 and each itself
    with pytest.raises(ValueError, match=r"`windows` must be integers of shape .*, got torch.float32"):
        field_from_windows(windows.float(), dropped, GRID)
    with pytest.raises(ValueError, match="`windows` must be integers of shape"):
        field_from_windows(windows[..., :3], dropped, GRID)
    with pytest.raises(ValueError, match=r"rows \* cols = 12 patches, got \(3, 5\)"):
        field_from_windows(windows, dropped, (3, 5))
    with pytest.raises(ValueError, match=r"`dropped` must be bool of shape \(2, 12\).*, got torch.bool \(1, 12\)"):
        field_from_windows(windows, dropped[:1], GRID)
    with pytest.raises(ValueError, match=r"`dropped` must be bool .*, got torch.int64"):
        field_from_windows(windows, dropped.long(), GRID)


def test_fields_survive_a_round_trip_through_windows(teacher: WindowTeacher, images: Tensor) -> None:
    field = teacher(images)
    again = field_from_windows(field.windows, field.dropped, field.grid)
    assert same(field, again)
    assert again.candidates is None
    assert torch.equal(again.operations, field.operations)
    assert torch.equal(again.tendency, field.tendency)
