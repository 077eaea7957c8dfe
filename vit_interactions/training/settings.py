"""What a training or an evaluation is made of. Each field is an option of the command, under the same name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_interactions.functional.window_free import WINDOW_FILLS
from vit_interactions.training.validators import (
    above_zero,
    at_least,
    below_one,
    check_fields,
    known_optimizer,
    named,
    one_of,
    option,
    within,
)
from vit_interactions.utilities.checks import check_fraction, check_weight
from vit_interactions.utilities.json_files import short_repr

# Beyond these a model asks for more memory than machines have, and is killed instead of refused.
MAX_SIDE, MAX_CLASSES = 8192, 10_000_000
MAX_WORKERS = 1024


@dataclass(frozen=True)
class Settings:
    """What training and evaluating have in common: pictures, the shape of the model, a teacher, the machine."""

    data: Path
    dataset: str = option("", "What kind of source the data is, as timm names it; empty: folders of pictures.")
    input_key: str | None = option(None, "Field of the picture, for sources that need it.")
    target_key: str | None = option(None, "Field of the class, for sources that need it.")
    img_size: int | None = option(None, "Side of the square input in pixels.", within(1, MAX_SIDE))
    window_fill: str | None = option(
        None, "Score of a pair outside WinfT's windows: zero (the paper) or -inf.", one_of(*WINDOW_FILLS)
    )
    teacher: str | None = option(
        None, "A trained plain ViT of timm that gives the windows; AWD-ViT needs one always."
    )
    teacher_checkpoint: Path | None = option(None, "The teacher's weights; else those that timm knows.")
    alpha: float = option(0.10, "Share of all patch pairs that count as relevant to the teacher.", check_fraction)
    beta: float = option(0.20, "Share of patches dropped as indiscriminative.", check_fraction)
    amp: str = option("none", "Mixed precision: bf16, fp16 or none.", one_of("bf16", "fp16", "none"))
    device: str = option("auto", "Where to compute: auto (CUDA, then MPS, then the CPU), cpu, cuda, mps, ...")
    workers: int = option(4, "Processes that load pictures.", within(0, MAX_WORKERS))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.teacher is None and self.teacher_checkpoint is not None:
            raise ValueError("`teacher_checkpoint` needs the name of its model as `teacher`.")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Everything that decides what an evaluation computes.

    Raises:
        ValueError: a value outside its range.
    """

    model: str = option("", "A classifier of timm, or local-dir: and a folder of a training.", named)
    checkpoint: Path | None = option(None, "Its weights; else those that timm knows, or that the folder holds.")
    split: str = option("validation", "The part to evaluate on.")
    class_map: Path | None = option(None, "Text file with the model's classes in order, one folder name per line.")
    batch_size: int = option(64, "Pictures in a batch of one process.", at_least(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_map is not None and self.class_map.suffix != ".txt":
            raise ValueError(f"`class_map` must be a .txt file, but got {self.class_map}.")


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Everything that decides what a training run computes, and where it does.

    `batch_size` counts the pictures of one step over all processes and accumulated parts, so that a recipe means the
    same on one graphics card and on many.

    Raises:
        ValueError: a value outside its range, or two that do not go together.

    Example:
        >>> TrainingSettings(data=Path("pictures"), model="vit_tiny_patch16_224", lr=-1.0)
        Traceback (most recent call last):
        ValueError: `lr` must be finite and > 0, but got -1.0.
    """

    # Pictures.
    train_split: str = option("train", "The part to train on.")
    val_split: str = option("validation", "The part to evaluate on; empty: none.")
    num_classes: int | None = option(
        None, "Number of classes, where the source does not tell it.", within(2, MAX_CLASSES)
    )
    # The model.
    model: str = option("", "A classifier of timm: vit_*, winft_*, awd_vit_*, ...", named)
    pretrained: bool = option(False, "Start from the weights that timm knows for the model.")
    initial_checkpoint: Path | None = option(None, "Weights to start from; a classifier for others starts anew.")
    drop_path: float = option(0.0, "Rate of stochastic depth.", check_fraction)
    # Windows.
    window_targets: str = option(
        "none",
        "Where the targets of WinfT's windows come from: online (the teacher sees each batch), cached (--window-store) "
        "or none.",
        one_of("online", "cached", "none"),
    )
    window_store: Path | None = option(None, "Folder with the cached windows.")
    lambda1: float = option(1.0, "Weight of the classification loss.", check_weight)
    lambda2: float = option(1.0, "Weight of the window loss.", check_weight)
    # Augmentation.
    scale: float = option(0.08, "Least share of the picture's area that a crop keeps.", check_fraction)
    hflip: float = option(0.5, "Rate of mirrored pictures.", check_fraction)
    color_jitter: float = option(0.4, "Strength of the changes of colour.", check_weight)
    auto_augment: str | None = option(None, "Policy of timm, e.g. rand-m9-mstd0.5.")
    random_erase: float = option(0.0, "Rate of pictures with an erased rectangle.", check_fraction)
    mixup: float = option(0.0, "Mixup's α; 0: off.", check_weight)
    cutmix: float = option(0.0, "CutMix's α; 0: off.", check_weight)
    smoothing: float = option(0.0, "Label smoothing.", below_one)
    # Optimisation.
    batch_size: int = option(128, "Pictures in a step, over all processes and accumulated parts.", at_least(1))
    accumulate: int = option(1, "Parts of a step that are computed one after another.", at_least(1))
    epochs: int = option(15, "Times to go through the pictures.", at_least(1))
    steps: int | None = option(None, "Steps to train, instead of --epochs.", at_least(1))
    opt: str = option("sgd", "An optimizer of timm.", known_optimizer)
    lr: float = option(0.01, "Learning rate.", above_zero)
    momentum: float = option(0.9, "Momentum, for optimizers that have one.", check_fraction)
    weight_decay: float = option(0.0, "Weight decay.", check_weight)
    sched: str = option(
        "cosine",
        "Course of the learning rate: cosine, linear or constant.",
        one_of("cosine", "linear", "constant"),
    )
    warmup_steps: int = option(0, "Steps, of all, in which the learning rate rises.", at_least(0))
    min_lr: float = option(0.0, "Learning rate at the end.", check_weight)
    clip_grad: float | None = option(None, "Norm that the gradient is cut to.", above_zero)
    ema: float | None = option(
        None, "Decay of an average of the weights, which is then the model.", check_fraction
    )
    # The run.
    seed: int = option(0, "Seed of everything random.", at_least(0))
    checkpoint_every: int = option(
        500, "Steps between checkpoints; there is one after each epoch too.", at_least(1)
    )
    eval_every: int = option(1, "Epochs between evaluations.", at_least(1))
    log_every: int = option(50, "Steps between rows of log.csv.", at_least(1))
    tensorboard: bool = option(False, "Log to TensorBoard too.")
    wandb: str | None = option(None, "Project of Weights & Biases to log to too.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_windows()
        if self.pretrained and self.initial_checkpoint is not None:
            raise ValueError("`pretrained` and `initial_checkpoint` both name weights to start from; give one.")
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                f"`warmup_steps` must be less than the {self.steps} steps of all, but got {self.warmup_steps}."
            )

    def _check_windows(self) -> None:
        if self.window_targets == "online" and self.teacher is None:
            raise ValueError(
                "`window_targets` online needs a `teacher`: a trained plain ViT, e.g. the model's start."
            )
        if (self.window_targets == "cached") != (self.window_store is not None):
            raise ValueError("`window_targets` cached and `window_store` go together; got one without the other.")
        if self.window_targets == "cached" and (self.mixup or self.cutmix):
            raise ValueError(
                "`window_targets` cached are those of single pictures, but `mixup` and `cutmix` mix them; "
                "use online targets, or neither of the two."
            )


# What may change between the start of a run and its resumption: where things are, and what is reported.
MAY_CHANGE = frozenset(
    {"data", "workers", "initial_checkpoint", "window_store", "teacher_checkpoint", "device", "checkpoint_every"}
    | {"tensorboard", "wandb"}
)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError, naming each setting that differs, unless a run can go on under the settings of now.

    Args:
        before: settings of the run's start.
        now: settings of the command.
        path: of the file that has the earlier ones.

    Example:
        >>> check_resumable({"lr": 0.1, "workers": 1}, {"lr": 0.2, "workers": 8}, Path("a.json"))
        Traceback (most recent call last):
        ValueError: `resume` needs the settings of the run's start, in a.json, but now `lr` is 0.2 instead of 0.1.
    """
    differ = [
        f"`{name}` is {now.get(name)!r} instead of {short_repr(before[name]) if name in before else 'missing'}"
        for name in sorted({*before, *now} - MAY_CHANGE)
        if name not in before or before[name] != now.get(name)
    ]
    if differ:
        raise ValueError(
            f"`resume` needs the settings of the run's start, in {path}, but now {', '.join(differ)}."
        )
