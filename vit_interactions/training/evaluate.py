"""Evaluate a classifier: accuracy, loss, patch interactions and throughput, in one or many processes."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from vit_interactions.loading.class_maps import ClassNames, names_of_config, read_class_map
from vit_interactions.models.adaptive_window import AdaptiveWindowViT
from vit_interactions.models.trained_windows import WINDOW_SETTINGS, other_windows, trained_windows
from vit_interactions.training.data.datasets import class_indices, open_split
from vit_interactions.training.data.loaders import Batch, EvaluationLoader
from vit_interactions.training.data.unreadable import describe_unreadable, merge_unreadable, skipped_files
from vit_interactions.training.factory import create_trained_model, input_config
from vit_interactions.training.interactions import classify_and_count, count_pairs
from vit_interactions.training.reporter import Reporter
from vit_interactions.training.settings import EvaluationSettings
from vit_interactions.training.trainer import autocast_for
from vit_interactions.utilities.processes import all_gather, process_group, synchronize


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        images: number of classified images.
        loss: cross-entropy, in nats per image.
        top1: accuracy in percent.
        top5: percentage of images whose class is among the five highest scores; None for fewer than five classes.
        operations: E_O, patch interactions averaged over images (and layers); None for a model that is not a ViT.
        pairs: N², all pairs of patches; None for a model that is not a ViT.
        throughput: images per second and process, without loading.
        unreadable: name -> reason of each unreadable image; these are in none of the numbers.
    """

    images: int
    loss: float
    top1: float
    top5: float | None
    operations: float | None
    pairs: int | None
    throughput: float
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def as_row(self) -> dict[str, float | int | None]:
        """Return name -> number."""
        return {**asdict(self), "unreadable": len(self.unreadable)}

    def __str__(self) -> str:
        """Describe the results in one line.

        Example:
            >>> str(Evaluation(100, 0.5, 80.0, 95.0, 19208.0, 38416, 10.0))
            'top-1 80.00%, top-5 95.00%, loss 0.500, E_O 19,208 of 38,416 (50.0%)'
        """
        parts = [f"top-1 {self.top1:.2f}%", f"loss {self.loss:.3f}"]
        if self.top5 is not None:
            parts.insert(1, f"top-5 {self.top5:.2f}%")
        if self.operations is not None and self.pairs is not None:
            share = 100 * self.operations / self.pairs
            parts.append(f"E_O {self.operations:,.0f} of {self.pairs:,} ({share:.1f}%)")
        if self.unreadable:
            parts.append(f"{self.images:,} images, {describe_unreadable(self.unreadable)}")
        return ", ".join(parts)


def run_evaluation(settings: EvaluationSettings, reporter: Reporter | None = None) -> Evaluation | None:
    """Create the model, open the data and evaluate.

    Returns:
        The results in the first process, in which `reporter` receives progress; None in the others.

    Raises:
        ValueError: settings that do not fit the data or the model.
        OSError: missing files.
    """
    with process_group(settings.device) as process:
        if reporter is None or not process.first:
            reporter = Reporter()
        model = create_trained_model(settings, process)
        dataset = _open_data(settings, model)
        notes = skipped_files(dataset)
        if isinstance(model, AdaptiveWindowViT):
            windows = trained_windows(settings.model)
            used = (getattr(settings, name) for name in WINDOW_SETTINGS)
            notes = [*other_windows(settings.model, windows, *used), *notes]
        for note in notes:
            reporter.note(f"note: {note}")
        config = input_config(model, settings)
        loader = EvaluationLoader(
            dataset, config, process, batch_size=settings.batch_size, workers=settings.workers
        )
        autocast = partial(autocast_for, settings.amp, process.device)
        result = evaluate(model, _reported(loader, reporter), unreadable=loader.unreadable, autocast=autocast)
        return result if process.first else None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    unreadable: Mapping[str, str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Classify the images of all processes.

    Args:
        model: a timm classifier in evaluation mode; an AWD-ViT with its teacher.
        batches: images (batch, channels, height, width) and classes (batch,), on the model's device; some may be empty.
        unreadable: name -> reason of each image that this process could not read; read after the last batch.
        autocast: context to compute in.

    Returns:
        Means over all images, the same in every process.

    Raises:
        ValueError: no images, outputs that are not finite, or classes that the model does not have.

    Example:
        >>> import timm
        >>> batch = torch.zeros(2, 3, 160, 160), torch.tensor([0, 1])
        >>> evaluate(timm.create_model("test_vit").eval(), [batch]).operations
        10000.0
    """
    sums, seconds, pairs = _no_sums(model), [], None
    for images, classes in batches:
        pairs = count_pairs(model, images)
        if not len(images):
            continue
        start = time.perf_counter()
        with autocast():
            logits, operations = classify_and_count(model, images)
        synchronize(images.device)
        seconds.append((len(images), time.perf_counter() - start))
        sums += _sums(logits, classes, operations, sums.dtype)
    if distributed.is_initialized():
        distributed.all_reduce(sums)
    failed = merge_unreadable(all_gather(dict(unreadable or {})))
    count, loss, top1, top5, operations_sum, scores, infinite, unknown = sums.tolist()
    _check(int(count), int(infinite), int(unknown), failed)
    return Evaluation(
        images=int(count),
        loss=loss / count,
        top1=100 * top1 / count,
        top5=100 * top5 / count if scores >= 5 * count else None,
        operations=None if pairs is None else operations_sum / count,
        pairs=pairs,
        throughput=_throughput(seconds),
        unreadable=failed,
    )


def _no_sums(model: nn.Module) -> Tensor:
    device = next(model.parameters(), torch.zeros(())).device
    return torch.zeros(8, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _sums(logits: Tensor, classes: Tensor, operations: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Sum over the images of a batch: (8,).

    The sums are images, loss, top-1, top-5, interactions, scores, images with outputs that are not finite, and images
    of classes that the model does not have.
    """
    known = (classes >= 0) & (classes < logits.shape[-1])
    classes = classes.where(known, 0)
    correct = logits.topk(min(5, logits.shape[-1]), -1).indices == classes.unsqueeze(-1)
    sums = (
        classes.new_tensor(len(classes)),
        F.cross_entropy(logits.float(), classes, reduction="sum"),
        correct[:, :1].sum(),
        correct.sum(),
        classes.new_zeros(()) if operations is None else operations.sum(),
        classes.new_tensor(logits.numel()),
        (~logits.isfinite().all(-1)).sum(),
        (~known).sum(),
    )
    return torch.stack([value.to(dtype) for value in sums])


def _check(images: int, infinite: int, unknown: int, unreadable: Mapping[str, str]) -> None:
    """Raise ValueError, in all processes, unless the sums make a valid evaluation."""
    if not images and unreadable:
        name, reason = next(iter(unreadable.items()))
        raise ValueError(
            f"`data` must have images that can be read, got none of {len(unreadable):,}: {name}: {reason}"
        )
    if not images:
        raise ValueError("`batches` must have images, got none.")
    if infinite:
        raise ValueError(
            f"`model` must give finite outputs, got NaN or infinite ones for {infinite:,} of {images:,} images. Its "
            "weights may be damaged, or `amp` too narrow for them."
        )
    if unknown:
        raise ValueError(
            f"`data` must have classes of the model only, got class numbers that it does not have for {unknown:,} of "
            f"{images:,} images. Give the order of the model's classes as a `class_map`."
        )


def _throughput(seconds: list[tuple[int, float]]) -> float:
    """Return images per second, without the first batch (a warm-up) if there are more; NaN without batches."""
    counted = seconds[1:] or seconds
    return sum(count for count, _ in counted) / sum(time for _, time in counted) if counted else nan


def _open_data(settings: EvaluationSettings, model: nn.Module) -> Any:
    """Open the images, with their classes numbered as in the model."""
    count: Any = model.num_classes
    if count < 2:
        raise ValueError(f"`model` must classify into at least two classes, got {count}.")
    classes = _class_names(settings, model, count)
    keys: dict[str, Any] = {"input_key": settings.input_key, "target_key": settings.target_key}
    dataset = open_split(settings.data, settings.split, kind=settings.dataset, classes=classes, **keys)
    index = class_indices(dataset)
    if index is not None and classes is None and len(index) != count:
        raise ValueError(
            f"`data` must have the {count} classes of the model, got {len(index)}. Give the order of the model's "
            "classes as a `class_map`."
        )
    return dataset


def _class_names(settings: EvaluationSettings, model: nn.Module, count: int) -> ClassNames | None:
    """Return the model's classes as named by the class map or the model's config; None if neither names them."""
    if settings.class_map is not None:
        return read_class_map(settings.class_map, count)
    names = getattr(model, "pretrained_cfg", {}).get("label_names")
    return names_of_config(names, count) if names else None


def _reported(loader: EvaluationLoader, reporter: Reporter) -> Iterator[Batch]:
    for number, batch in enumerate(loader):
        reporter.progress(number, len(loader), "evaluating" if number == 0 else "")
        yield batch
