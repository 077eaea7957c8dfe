"""Settings of training and evaluation runs; each field is an option of the command with the same name."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_interactions.training.validators import (
    above_zero,
    below_one,
    check_fields,
    known_optimizer,
    one_of,
    option,
    required,
    within,
)
from vit_interactions.utilities.checks import check_fraction, check_weight
from vit_interactions.utilities.choices import WINDOW_FILLS
from vit_interactions.utilities.json_files import short_repr

# With larger values, the system kills the process for lack of memory before Python can raise an error.
MAX_SIDE, MAX_CLASSES = 8192, 10_000_000
MAX_WORKERS = 1024


@dataclass(frozen=True)
class BaseSettings:
    """Settings that training and evaluation share."""

    data: Path
    dataset: str = option("", "Kind of dataset, as timm names it; empty: image folders.")
    input_key: str | None = option(None, "Field of the image, for datasets that need it.")
    target_key: str | None = option(None, "Field of the class, for datasets that need it.")
    img_size: int | None = option(None, "Side of the square input in pixels.", within(1, MAX_SIDE))
    window_fill: str | None = option(
        None, "Score of a pair outside WinfT's windows: zero (the paper) or -inf.", one_of(*WINDOW_FILLS)
    )
    teacher: str | None = option(
        None, "A trained plain timm ViT that determines the windows; AWD-ViT always needs one."
    )
    teacher_checkpoint: Path | None = option(None, "Weights of the teacher. Default: timm's pretrained weights.")
    alpha: float = option(0.10, "Fraction of all patch pairs that the teacher counts as relevant.", check_fraction)
    beta: float = option(0.20, "Fraction of patches dropped as indiscriminative.", check_fraction)
    window_coverage: float = option(
        1.0,
        "Fraction of a patch's relevant patches that its window contains at least; 1: the bounding box of all, as in "
        "the paper.",
        check_fraction,
    )
    exclude_sinks: bool = option(
        False, "Leave out the teacher's attention sinks: they are relevant to no other patch."
    )
    amp: str = option("none", "Mixed precision: bf16, fp16 or none.", one_of("bf16", "fp16", "none"))
    device: str = option("auto", "Device: auto (CUDA, then MPS, then CPU), cpu, cuda, mps, ...")
    workers: int = option(4, "Worker processes that load images.", within(0, MAX_WORKERS))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.teacher is None and self.teacher_checkpoint is not None:
            raise ValueError("`teacher_checkpoint` must come with the name of its model as `teacher`, got none.")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as values that JSON has."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class EvaluationSettings(BaseSettings):
    """Settings of an evaluation.

    Raises:
        ValueError: a value out of range.
    """

    model: str = option("", "A timm classifier, or local-dir: and a folder written by training.", required)
    checkpoint: Path | None = option(None, "Weights. Default: those of the folder, or timm's pretrained weights.")
    split: str = option("validation", "Split to evaluate on.")
    class_map: Path | None = option(None, "Text file with the model's classes in order, one folder name per line.")
    batch_size: int = option(64, "Images per batch and process.", within(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_map is not None and self.class_map.suffix != ".txt":
            raise ValueError(f"`class_map` must be a .txt file, got {self.class_map}.")


@dataclass(frozen=True)
class TrainingSettings(BaseSettings):
    """Settings of a training run.

    `batch_size` counts the images of one step over all processes and accumulated batches, so that a recipe means the
    same on one GPU and on many.

    Raises:
        ValueError: a value out of range, or two that exclude each other.

    Example:
        >>> TrainingSettings(data=Path("images"), model="vit_tiny_patch16_224", lr=-1.0)
        Traceback (most recent call last):
        ValueError: `lr` must be finite and > 0, got -1.0.
    """

    # Data.
    train_split: str = option("train", "Split to train on.")
    val_split: str = option("validation", "Split to evaluate on; empty: none.")
    num_classes: int | None = option(
        None, "Number of classes, for datasets that do not list theirs.", within(2, MAX_CLASSES)
    )
    # Model.
    model: str = option("", "A timm classifier: vit_*, winft_*, awd_vit_*, ...", required)
    pretrained: bool = option(False, "Start from timm's pretrained weights.")
    initial_checkpoint: Path | None = option(
        None, "Weights to start from; a head for other classes is re-initialized."
    )
    drop_path: float = option(0.0, "Stochastic depth rate.", check_fraction)
    # Windows.
    window_targets: str = option(
        "none",
        "Targets of WinfT's windows: online (from the teacher, per batch), cached (from --window-store) or none.",
        one_of("online", "cached", "none"),
    )
    window_store: Path | None = option(None, "Folder with the cached windows.")
    lambda1: float = option(1.0, "Weight of the classification loss.", check_weight)
    lambda2: float = option(1.0, "Weight of the window loss.", check_weight)
    # Augmentation.
    scale: float = option(0.08, "Minimum area of a random crop, as a fraction of the image.", check_fraction)
    hflip: float = option(0.5, "Probability of a horizontal flip.", check_fraction)
    color_jitter: float = option(0.4, "Color jitter factor.", check_weight)
    auto_augment: str | None = option(None, "timm's AutoAugment policy, e.g. rand-m9-mstd0.5.")
    random_erase: float = option(0.0, "Probability of random erasing.", check_fraction)
    mixup: float = option(0.0, "Mixup alpha; 0: off.", check_weight)
    cutmix: float = option(0.0, "CutMix alpha; 0: off.", check_weight)
    smoothing: float = option(0.0, "Label smoothing.", below_one)
    # Optimization.
    batch_size: int = option(128, "Images per step, over all processes and accumulated batches.", within(1))
    accumulate: int = option(1, "Gradient accumulation: batches per step.", within(1))
    epochs: int = option(15, "Number of epochs.", within(1))
    steps: int | None = option(None, "Number of steps, instead of --epochs.", within(1))
    opt: str = option("sgd", "Name of a timm optimizer.", known_optimizer, slow=True)
    lr: float = option(0.01, "Learning rate.", above_zero)
    momentum: float = option(0.9, "Momentum, for optimizers that have it.", check_fraction)
    weight_decay: float = option(0.0, "Weight decay.", check_weight)
    sched: str = option(
        "cosine", "Learning rate schedule: cosine, linear or constant.", one_of("cosine", "linear", "constant")
    )
    warmup_steps: int = option(0, "Warm-up steps, included in the total.", within(0))
    min_lr: float = option(0.0, "Learning rate at the end of the schedule.", check_weight)
    clip_grad: float | None = option(None, "Maximum norm of the gradient.", above_zero)
    ema: float | None = option(
        None, "Decay of the exponential moving average of the weights, which becomes the model.", check_fraction
    )
    # Run.
    seed: int = option(0, "Random seed.", within(0))
    checkpoint_every: int = option(500, "Steps between checkpoints, besides the one per epoch.", within(1))
    eval_every: int = option(1, "Epochs between evaluations.", within(1))
    log_every: int = option(50, "Steps between rows of log.csv.", within(1))
    tensorboard: bool = option(False, "Also log to TensorBoard.")
    wandb: str | None = option(None, "Also log to this Weights & Biases project.")
    explain_every: int | None = option(
        None, "Epochs between explanations of fixed images; the trained weights stay the same.", within(1)
    )
    explain_images: Path | None = option(
        None, "Image or folder of images to explain. Default: four evaluation images."
    )
    explain_method: list[str] | None = option(
        None, "Method whose maps are shown, with options as in compare; repeat for several."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_targets == "online" and self.teacher is None:
            raise ValueError(
                "`window_targets` online must come with a `teacher`, got none. Give a trained plain ViT, e.g. the one "
                "that the model starts from."
            )
        if (self.window_targets == "cached") != (self.window_store is not None):
            raise ValueError(
                "`window_targets` cached and `window_store` must come together, got only one of them."
            )
        if self.window_targets == "cached" and (self.mixup or self.cutmix):
            raise ValueError(
                "`window_targets` must be online or none with `mixup` or `cutmix`, got cached: stored windows belong "
                "to single images, not to mixed ones."
            )
        if self.pretrained and self.initial_checkpoint is not None:
            raise ValueError("Only one of `pretrained` and `initial_checkpoint` must be given, got both.")
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(f"`warmup_steps` must be less than `steps`, {self.steps}, got {self.warmup_steps}.")
        if self.explain_every is None and (self.explain_images or self.explain_method):
            raise ValueError("`explain_images` and `explain_method` must come with `explain_every`, got none.")


# Settings that may differ on resume: paths, devices and logging.
MAY_CHANGE = frozenset(
    {"data", "workers", "initial_checkpoint", "window_store", "teacher_checkpoint", "device", "checkpoint_every"}
    | {"tensorboard", "wandb", "explain_every", "explain_images", "explain_method"}
)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError, naming each setting that differs, unless the run of settings file `path` may resume as `now`.

    Example:
        >>> check_resumable({"lr": 0.1, "workers": 1}, {"lr": 0.2, "workers": 8}, Path("a.json"))
        Traceback (most recent call last):
        ValueError: `resume` must come with the settings that the run started with (a.json), got `lr` 0.2, not 0.1.
    """
    differ = [
        f"`{name}` {now.get(name)!r}, not {short_repr(before[name]) if name in before else 'missing'}"
        for name in sorted({*before, *now} - MAY_CHANGE)
        if name not in before or before[name] != now.get(name)
    ]
    if differ:
        raise ValueError(
            f"`resume` must come with the settings that the run started with ({path}), got {'; '.join(differ)}."
        )
