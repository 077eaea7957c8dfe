"""A model and everything that changes while it is trained: weights, optimizer, schedule, EMA, loss scaler."""

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

from vit_interactions.models.adaptive_window import AdaptiveWindowViT, Teacher
from vit_interactions.training.checkpoint import ADVICE, check_optimizer, check_tensors
from vit_interactions.training.data.loaders import TrainingBatch
from vit_interactions.training.data.windowed_dataset import WindowedTarget
from vit_interactions.training.meter import Meter
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.task import WindowSupervisionTask
from vit_interactions.utilities.json_files import check_keys
from vit_interactions.utilities.processes import Process
from vit_interactions.utilities.seeds import STEP, seed_everything, seed_of

WARMUP_LR = 1e-5  # timm's default
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains a model step by step.

    All random numbers of a step are a function of seed, step and process.

    Attributes:
        step: number of finished steps.
        task: timm's task with the model.
        meter: running means of the losses.
        lr: learning rate of the last step.
    """

    def __init__(
        self, student: nn.Module, settings: TrainingSettings, process: Process, total: int, teacher: Teacher | None
    ) -> None:
        """Create the task, optimizer, schedule and augmentations for a model on the process's device.

        A WinfT student learns the teacher's windows, an AWD-ViT student attends within them. `total` is the number of
        steps.
        """
        self.step, self.meter, self.lr = 0, Meter(), settings.lr
        self._settings, self._process = settings, process
        self.autocast = partial(autocast_for, settings.amp, process.device)
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
            averaged = self.model
            if isinstance(student, AdaptiveWindowViT) and isinstance(averaged, AdaptiveWindowViT):
                averaged.set_teacher(student.teacher)  # instead of a copy
        self._augmentations = create_augmentations(student, settings, process)

    def distribute(self) -> None:
        """Train together with the other processes from here on."""
        if self._process.world > 1:
            device = self._process.device
            self.task.prepare_distributed(device_ids=None if device.type == "cpu" else [device])

    @property
    def model(self) -> nn.Module:
        """The trained model; with EMA, the averaged one."""
        model: nn.Module = unwrap_model(self.task.get_trainable_module(ema=self.task.has_ema()))
        return model

    def train_step(self, batches: Iterator[TrainingBatch]) -> None:
        """Train one optimizer step on the next `accumulate` batches.

        An unreadable image counts as an image without a gradient, so that the weight of the others does not depend on
        how the step is divided among batches and processes.
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

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, without the teacher."""
        state = {
            "step": self.step,
            "lr": self.lr,
            "meter": self.meter.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **self.task.get_checkpoint_state(),
            **self.task.get_checkpoint_state(ema=True),
        }
        if self._scaler is not None:
            state[self._scaler.state_dict_key] = self._scaler.state_dict()
        return state

    def check_state_dict(self, path: Path, state: dict[str, Any]) -> None:
        """Raise DamagedFileError, naming the field, if the state of a checkpoint does not fit this trainer."""
        own = self.state_dict()
        check_keys(path, state, dict.fromkeys(own, object), ADVICE)
        for key in ("state_dict", "state_dict_ema"):
            if key in own:
                check_tensors(path, key, state[key], own[key])
        check_optimizer(path, state["optimizer"], self._optimizer)
        if self._scaler is not None:
            key = self._scaler.state_dict_key
            check_keys(path, state[key], dict.fromkeys(own[key], float), ADVICE, key)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint; must be called before `distribute`."""
        self.step, self.lr = state["step"], state["lr"]
        self.meter.load_state_dict(state["meter"])
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


def autocast_for(amp: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of mixed precision "bf16" or "fp16" on a device; one without effect for "none"."""
    return torch.autocast(device.type, AMP_TYPES[amp]) if amp in AMP_TYPES else nullcontext()


def create_task(
    student: nn.Module, settings: TrainingSettings, process: Process, teacher: Teacher | None
) -> ClassificationTask:
    """Create the task of classification, supervised by the teacher's windows if the settings ask for it."""
    if isinstance(student, AdaptiveWindowViT):
        student.set_teacher(teacher)
    common: dict[str, Any] = {"device": process.device, "verbose": False}
    loss = create_loss(settings)
    if settings.window_targets == "none":
        return ClassificationTask(student, loss, **common)
    if settings.window_targets == "cached":
        teacher = None
    return WindowSupervisionTask(
        student, loss, teacher=teacher, lambda1=settings.lambda1, lambda2=settings.lambda2, **common
    )


def create_loss(settings: TrainingSettings) -> nn.Module:
    """Create the classification loss; mixed images come with soft targets that are smoothed already."""
    if settings.mixup or settings.cutmix:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(settings.smoothing) if settings.smoothing else nn.CrossEntropyLoss()


def create_schedule(optimizer: torch.optim.Optimizer, settings: TrainingSettings, total: int) -> Any:
    """Create the learning rate schedule: warm-up, then a decay to `min_lr`, or a constant rate.

    Raises:
        ValueError: no steps left after the warm-up.
    """
    if settings.warmup_steps >= total:
        raise ValueError(
            f"`warmup_steps` must be less than the total of {total} steps, got {settings.warmup_steps}."
        )
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
        updates_per_epoch=1,  # one of timm's epochs is one step
        **shapes[settings.sched],
    )
    return schedule


def create_augmentations(student: nn.Module, settings: TrainingSettings, process: Process) -> list[Any]:
    """Create the augmentations of whole batches: timm's random erasing, Mixup and CutMix."""
    augmentations: list[Any] = []
    if settings.random_erase:
        erasing = RandomErasing(settings.random_erase, mode="pixel", device=process.device)
        augmentations.append(lambda images, target: (erasing(images), target))
    if settings.mixup or settings.cutmix:
        smoothing, classes = settings.smoothing, student.num_classes
        mixup = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=classes)
        augmentations.append(partial(_mix, mixup))
    return augmentations


def _mix(mixup: Any, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mix images in pairs; leave one without a partner (its own was unreadable) as it is."""
    even = len(images) // 2 * 2
    alone = mixup_target(target[even:], mixup.num_classes, 1.0, mixup.label_smoothing)
    mixed, shares = mixup(images[:even], target[:even])
    return torch.cat([mixed, images[even:]]), torch.cat([shares, alone])
