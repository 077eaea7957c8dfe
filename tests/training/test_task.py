"""Tests of the task: its loss against a slow reference, and the behavior inherited from timm's."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.training.task import WindowSupervisionTask
from vit_interactions.training.teacher import WindowTeacher

SIZE, PATCHES = 64, 16


def winft(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_winft", img_size=SIZE, num_classes=4, **options)
    return model


def vit() -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = timm.create_model("test_vit", img_size=SIZE, num_classes=4)
    return model


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, SIZE, SIZE, generator=generator), torch.arange(count) % 4


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def slow_loss(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, weights: tuple[float, float]
) -> Tensor:
    """Compute Eq. 12 in loops.

    λ1 times the mean of -log p_y, and λ2 times the mean over images, layers and pairs of the cross-entropy of
    w' = sigmoid(mean over heads of q·k) with the responsive fields.
    """
    inputs: list[Tensor] = []
    hooks = [b.attn.register_forward_pre_hook(lambda m, args: inputs.append(args[0])) for b in student.blocks]
    logits = student(x)
    for hook in hooks:
        hook.remove()
    classification = sum(-logits[i].log_softmax(-1)[y[i]] for i in range(len(y))) / len(y)
    field = vi.responsive_field(vi.InteractionUncertainty(teacher).uncertainty(x), (4, 4), alpha=0.05, beta=0.20)
    total, terms = torch.zeros((), dtype=torch.float64), 0
    for layer, tokens in zip([b.attn for b in student.blocks], inputs, strict=True):
        for image in range(len(x)):
            q, k, _ = layer.qkv(tokens[image, 1:]).split(64, -1)
            for i in range(PATCHES):
                for j in range(PATCHES):
                    heads = [q[i, h : h + 32] @ k[j, h : h + 32] for h in (0, 32)]
                    w = torch.sigmoid(sum(heads) / 2)
                    total = total - (w.log() if field.mask[image, i, j] else (1 - w).log())
                    terms += 1
    return weights[0] * classification + weights[1] * total / terms


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_loss_and_gradients_equal_a_slow_reference(weights: tuple[float, float]) -> None:
    student, teacher = winft().double(), vit().double()
    x, y = batch(2)
    x = x.double()
    task = WindowSupervisionTask(
        student,
        nn.CrossEntropyLoss(),
        teacher=WindowTeacher(teacher, alpha=0.05, beta=0.20),
        lambda1=weights[0],
        lambda2=weights[1],
    )
    result = task(x, y)
    result["loss"].backward()
    found = gradients(student)
    student.zero_grad()
    expected = slow_loss(student, teacher, x, y, weights)
    expected.backward()
    torch.testing.assert_close(result["loss"], expected)
    assert found.keys() == gradients(student).keys()
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(found[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
    parts = weights[0] * result["classification_loss"] + weights[1] * result["window_loss"]
    torch.testing.assert_close(result["loss"].detach(), parts)


def test_windows_of_the_batch_replace_those_of_the_teacher() -> None:
    x, y = batch()
    teacher = WindowTeacher(vit(), alpha=0.05)
    online = WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), teacher=teacher)(x, y)
    given = WindowSupervisionTask(winft(), nn.CrossEntropyLoss())
    assert torch.equal(given(x, y, windows=teacher(x).mask)["loss"], online["loss"])
    assert not torch.equal(given(x, y, windows=~teacher(x).mask)["loss"], online["loss"])
    with pytest.raises(ValueError, match="`windows` must come with the batch"):
        given(x, y)
    with pytest.raises(ValueError, match=r"logits' shape \(3, 16, 16\), got \(3, 9, 9\)"):
        given(x, y, windows=torch.ones(3, 9, 9))


def test_teacher_sees_the_batch_and_stays_unchanged() -> None:
    seen: list[Tensor] = []
    teacher = WindowTeacher(vit().train(), alpha=0.05)
    before = copy.deepcopy(teacher.state_dict())
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    task = WindowSupervisionTask(winft(), SoftTargetCrossEntropy(), teacher=teacher).train()
    x, y = Mixup(0.5, 1.0, num_classes=4)(*batch(4))
    result = task(x, y)
    result["loss"].backward()
    assert seen[0] is x
    assert not teacher.model.training
    assert task.get_trainable_module().training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    torch.testing.assert_close(
        result["classification_loss"], -(y * result["output"].log_softmax(-1)).sum(-1).mean().detach()
    )


def test_interactions_of_a_batch_are_counted() -> None:
    x, y = batch()
    task = WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), teacher=WindowTeacher(vit()))
    with vi.models.record_windows(task.trainable_module) as record:
        task.trainable_module(x)
    counts = [[int(mask[image].sum()) for mask in record.masks] for image in range(3)]
    torch.testing.assert_close(task(x, y)["operations"], torch.tensor([sum(c) / len(c) for c in counts]))


def test_recomputed_blocks_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        student = winft()
        student.set_grad_checkpointing(checkpointing)
        task = WindowSupervisionTask(
            student, nn.CrossEntropyLoss(), teacher=WindowTeacher(vit(), alpha=0.05)
        ).train()
        task(*batch())["loss"].backward()
        found.append(gradients(student))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_mixed_precision_keeps_the_window_loss_exact() -> None:
    x, y = batch()
    exact = WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), teacher=WindowTeacher(vit(), alpha=0.05))(x, y)
    task = WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), teacher=WindowTeacher(vit(), alpha=0.05))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = task(x, y)
    assert mixed["output"].dtype == torch.bfloat16
    assert mixed["window_loss"].dtype == torch.float32
    torch.testing.assert_close(mixed["window_loss"], exact["window_loss"], rtol=0.02, atol=0.0)
    mixed["loss"].backward()
    assert all(g.isfinite().all() for g in gradients(task.trainable_module).values())


def test_timm_checkpoints_contain_only_the_student(tmp_path: Path) -> None:
    def make() -> WindowSupervisionTask:
        task = WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), teacher=WindowTeacher(vit()))
        task.setup_ema(decay=0.5)
        return task

    task = make()
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.1, momentum=0.9)
    for step in range(2):
        task(*batch())["loss"].backward()
        optimizer.step()
        task.update_ema(step=step)
    saver = CheckpointSaver(task.get_trainable_module(), optimizer, task=task, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0)
    saved = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    student = winft()
    assert saved["state_dict"].keys() == saved["state_dict_ema"].keys() == student.state_dict().keys()
    other = make()
    resume_task_checkpoint(other, str(tmp_path / "last.pth.tar"))
    for name, value in task.get_trainable_module().state_dict().items():
        assert torch.equal(other.get_trainable_module().state_dict()[name], value)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])  # of train.py's --model-dtype
def test_task_is_created_as_in_timms_train_script(dtype: torch.dtype | None) -> None:
    # train.py calls `ClassificationTask` with these arguments; see docs/guides/train.md.
    make: Callable[..., ClassificationTask] = functools.partial(
        WindowSupervisionTask, teacher=WindowTeacher(vit())
    )
    task = make(
        model=winft().to(dtype=dtype),
        criterion=nn.CrossEntropyLoss(),
        device=torch.device("cpu"),
        dtype=dtype,
        verbose=False,
    )
    assert isinstance(task, ClassificationTask)
    images, classes = batch()
    result = task(images.to(dtype=dtype), classes)
    assert result["output"].dtype == (dtype or torch.float32)
    assert result["loss"].isfinite()
    assert not [name for name, p in task.get_trainable_module().named_parameters() if not p.requires_grad]


def test_invalid_task_arguments_raise() -> None:
    with pytest.raises(ValueError, match="must have WindowFreeAttention layers"):
        WindowSupervisionTask(vit(), nn.CrossEntropyLoss(), teacher=WindowTeacher(vit()))
    for name in ("lambda1", "lambda2"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"`{name}` must be finite and >= 0"):
                WindowSupervisionTask(winft(), nn.CrossEntropyLoss(), **{name: value})
