"""A student and all that changes with a step of its training: weights, optimizer, averages, scaling."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import NativeScaler, dispatch_clip_grad, unwrap_model
from torch import Tensor, nn

from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.training.checkpoint import ADVICE as CHECKPOINT_ADVICE
from vit_interactions.training.checkpoint import check_optimizer, check_tensors
from vit_interactions.training.data.loaders import TrainingBatch
from vit_interactions.training.data.windowed_dataset import WindowedTarget
from vit_interactions.training.meter import Meter
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.task import Teacher, WindowSupervisionTask
from vit_interactions.utilities.json_files import check_keys
from vit_interactions.utilities.processes import Process
from vit_interactions.utilities.seeds import STEP, seed_everything, seed_of

WARMUP_LR = 1e-5  # timm's
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A student that learns step by step.

    Whatever is drawn at random in a step is a function of seed, step and process.

    Attributes:
        step: steps that are done.
        task: timm's, with the student in it.
        meter: the numbers of the steps.
        lr: learning rate of the last step.
    """

    def __init__(
        self, student: nn.Module, settings: TrainingSettings, process: Process, total: int, teacher: Teacher | None
    ) -> None:
        """Take a student, on the process's device, and how it is to learn.

        Args:
            student: the classifier.
            settings: of the training.
            process: this one.
            total: steps to train.
            teacher: gives the windows that it learns from, or sees by.
        """
        self.step, self.meter, self.lr = 0, Meter(), settings.lr
        self._settings, self._process = settings, process
        self.task = create_task(student, settings, process, teacher)
        self._optimizer = create_optimizer_v2(
            student,
            opt=settings.opt,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
        self._schedule = create_schedule(self._optimizer, settings, total)
        self._scaler = NativeScaler(process.device.type) if settings.amp == "fp16" else None
        if settings.ema is not None:
            self.task.setup_ema(decay=settings.ema)
            share_teacher(student, unwrap_model(self.task.get_trainable_module(ema=True)))
        self._augmentations = create_augmentations(student, settings, process)

    def distribute(self) -> None:
        """Learn together with the other processes from here on."""
        if self._process.world > 1:
            device = self._process.device
            self.task.prepare_distributed(device_ids=None if device.type == "cpu" else [device])

    @property
    def model(self) -> nn.Module:
        """What has been learnt: the average of the weights where there is one."""
        model: nn.Module = unwrap_model(self.task.get_trainable_module(ema=self.task.has_ema()))
        return model

    def learn(self, batches: Iterator[TrainingBatch]) -> None:
        """Take a step on the next batches, as many as it has parts.

        An image that could not be read counts as one without a gradient: the others weigh as much as ever, however the
        step is divided among parts and processes.
        """
        parts = self._settings.accumulate
        for part in range(parts):
            images, target, weight = next(batches)
            seed_everything(seed_of(STEP, self._settings.seed, self.step * parts + part, self._process.rank))
            last = part == parts - 1
            with nullcontext() if last else self.task.no_sync():
                self._backward(self._loss(images, target, weight) / parts, last)
        self._optimizer.zero_grad()
        self.step += 1
        self.lr = self._optimizer.param_groups[0]["lr"]
        self.task.update_ema(step=self.step)
        self._schedule.step_update(self.step)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute in."""
        kind = AMP_TYPES.get(self._settings.amp)
        return nullcontext() if kind is None else torch.autocast(self._process.device.type, kind)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; the teacher is not in it."""
        state = {
            "step": self.step,
            "lr": self.lr,
            "meter": self.meter.state(),
            "optimizer": self._optimizer.state_dict(),
            **self.task.get_checkpoint_state(),
            **self.task.get_checkpoint_state(ema=True),
        }
        if self._scaler is not None:
            state[self._scaler.state_dict_key] = self._scaler.state_dict()
        return state

    def check_state(self, path: Path, state: dict[str, Any]) -> None:
        """Raise DamagedFileError, naming the field, where the state of a checkpoint does not fit this learner."""
        wanted = self.state()
        check_keys(path, state, dict.fromkeys(wanted, object), CHECKPOINT_ADVICE)
        for key in ("state_dict", "state_dict_ema"):
            if key in wanted:
                check_tensors(path, key, state[key], wanted[key])
        check_optimizer(path, state["optimizer"], self._optimizer)
        if self._scaler is not None:
            key = self._scaler.state_dict_key
            check_keys(path, state[key], dict.fromkeys(wanted[key], float), CHECKPOINT_ADVICE, key)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; before `distribute`."""
        self.step, self.lr = state["step"], state["lr"]
        self.meter.load_state(state["meter"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.task.load_checkpoint_state(state["state_dict"])
        if self.task.has_ema():
            self.task.load_checkpoint_state(state["state_dict_ema"], ema=True)
        if self._scaler is not None:
            self._scaler.load_state_dict(state[self._scaler.state_dict_key])
        self._schedule.step_update(self.step)

    def _loss(self, images: Tensor, target: Any, weight: float) -> Tensor:
        windows = {}
        if isinstance(target, WindowedTarget):
            windows, target = {"windows": target.field.mask}, target.classes
        for augment in self._augmentations:
            images, target = augment(images, target)
        with self.autocast():
            result = self.task(images, target, **windows)
        self.meter.add({name: value for name, value in result.items() if name != "output"}, weight)
        loss: Tensor = result["loss"] * weight
        return loss

    def _backward(self, loss: Tensor, last: bool) -> None:
        clip = self._settings.clip_grad
        if self._scaler is not None:
            parameters = list(self.task.get_clip_parameters())
            self._scaler(loss, self._optimizer, clip_grad=clip, parameters=parameters, need_update=last)
            return
        loss.backward()
        if last:
            if clip is not None:
                dispatch_clip_grad(self.task.get_clip_parameters(), value=clip)
            self._optimizer.step()


def create_task(
    student: nn.Module, settings: TrainingSettings, process: Process, teacher: Teacher | None
) -> ClassificationTask:
    """Make the task of a student: to classify, and where there are targets, to find the teacher's windows."""
    if isinstance(student, AdaptiveWindowViT):
        student.set_teacher(teacher)
    common: dict[str, Any] = {"device": process.device, "verbose": False}
    loss = create_loss(settings)
    if settings.window_targets == "none":
        return ClassificationTask(student, loss, **common)
    return WindowSupervisionTask(
        student,
        loss,
        teacher=teacher if settings.window_targets == "online" else None,
        lambda1=settings.lambda1,
        lambda2=settings.lambda2,
        **common,
    )


def create_loss(settings: TrainingSettings) -> nn.Module:
    """Make the classification loss; mixed pictures come with shares of classes, smoothed already."""
    if settings.mixup or settings.cutmix:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(settings.smoothing) if settings.smoothing else nn.CrossEntropyLoss()


def create_schedule(optimizer: torch.optim.Optimizer, settings: TrainingSettings, total: int) -> Any:
    """Make the course of the learning rate over `total` steps: a rise, then down to `min_lr`, or constant.

    Raises:
        ValueError: the rise takes all steps.
    """
    if settings.warmup_steps >= total:
        raise ValueError(f"`warmup_steps` must be less than the {total} steps, but got {settings.warmup_steps}.")
    shapes: dict[str, dict[str, Any]] = {
        "cosine": {"sched": "cosine"},
        "linear": {"sched": "poly", "decay_rate": 1.0},
        "constant": {"sched": "step", "decay_rate": 1.0, "decay_epochs": total},
    }
    schedule, _ = create_scheduler_v2(
        optimizer,
        num_epochs=total - settings.warmup_steps,
        min_lr=settings.min_lr,
        warmup_epochs=settings.warmup_steps,
        warmup_lr=min(WARMUP_LR, settings.lr),
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=1,  # so that what timm counts in epochs are steps
        **shapes[settings.sched],
    )
    return schedule


def create_augmentations(student: nn.Module, settings: TrainingSettings, process: Process) -> list[Any]:
    """Make what is done to whole batches: timm's random erasing, Mixup and CutMix."""
    made: list[Any] = []
    if settings.random_erase:
        erasing = RandomErasing(settings.random_erase, mode="pixel", device=process.device)
        made.append(partial(_erase, erasing))
    if settings.mixup or settings.cutmix:
        mixup = Mixup(
            settings.mixup,
            settings.cutmix,
            label_smoothing=settings.smoothing,
            num_classes=student.num_classes,
        )
        made.append(partial(_mix, mixup))
    return made


def _mix(mixup: Any, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images in pairs; one that an unreadable image left alone stays as it is."""
    even = len(images) // 2 * 2
    alone = mixup_target(target[even:], mixup.num_classes, 1.0, mixup.label_smoothing)
    mixed, shares = mixup(images[:even], target[:even])
    return torch.cat([mixed, images[even:]]), torch.cat([shares, alone])


def _erase(erasing: RandomErasing, images: Tensor, target: Any) -> tuple[Tensor, Any]:
    return erasing(images), target


def share_teacher(student: nn.Module, copy: nn.Module) -> None:
    """Give a copy of a student the student's own teacher in the place of a copy of it."""
    if isinstance(student, AdaptiveWindowViT) and isinstance(copy, AdaptiveWindowViT):
        copy.set_teacher(student.teacher)
