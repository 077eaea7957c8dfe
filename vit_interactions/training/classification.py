"""How well a classifier does, and with how many patch interactions."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from vit_interactions.training.data.unreadable import merge_unreadable
from vit_interactions.training.interactions import classify_and_count, count_pairs
from vit_interactions.utilities.processes import gather


@dataclass(frozen=True)
class Evaluation:
    """What came out of an evaluation.

    Attributes:
        pictures: number of images that were classified.
        loss: cross-entropy, in nats per image.
        top1: share of images whose class got the highest score, in percent.
        top5: share whose class was among the five highest, in percent; None for fewer than five classes.
        operations: E_O, patch interactions averaged over images (and layers); None for a model that is no ViT.
        pairs: N², all pairs of patches; None for a model that is no ViT.
        throughput: images per second and process that the model takes, loading not counted.
        unreadable: name -> reason of each image that could not be read; it is in none of the numbers.
    """

    pictures: int
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


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    unreadable: Mapping[str, str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Classify all images of this process, and of the others where there are any.

    Args:
        model: a classifier of timm, in evaluation mode; an AWD-ViT with its teacher.
        batches: images (batch, channels, height, width) and classes (batch,), on the model's device; some may be empty.
        unreadable: name -> reason of each image that this process could not read, read after the last batch.
        autocast: the context to compute in.

    Returns:
        The means over all images, the same in every process.

    Raises:
        ValueError: no images, outputs that are not finite, or classes that the model does not have.

    Example:
        >>> import timm
        >>> batch = torch.zeros(2, 3, 160, 160), torch.tensor([0, 1])
        >>> evaluate(timm.create_model("test_vit").eval(), [batch]).operations
        10000.0
    """
    parts, seconds, pairs = [_nothing(model)], [], None
    for images, classes in batches:
        pairs = count_pairs(model, images)
        if not len(images):
            continue
        start = time.perf_counter()
        with autocast():
            logits, operations = classify_and_count(model, images)
        _wait_for(images.device)
        seconds.append((images.shape[0], time.perf_counter() - start))
        parts.append(_sums(logits, classes, operations))
    sums = torch.stack(parts).sum(0)
    if distributed.is_initialized():
        distributed.all_reduce(sums)
    failed = merge_unreadable(gather(dict(unreadable or {})))
    images_read, loss, top1, top5, operations_sum, scores, infinite, strange = sums.tolist()
    _check(int(images_read), int(infinite), int(strange), failed)
    return Evaluation(
        pictures=int(images_read),
        loss=loss / images_read,
        top1=100 * top1 / images_read,
        top5=100 * top5 / images_read if scores >= 5 * images_read else None,
        operations=None if pairs is None else operations_sum / images_read,
        pairs=pairs,
        throughput=_throughput(seconds),
        unreadable=failed,
    )


def _nothing(model: nn.Module) -> Tensor:
    """Return the sums over no images, for a process that got none."""
    weight = next(model.parameters(), torch.zeros(()))
    return torch.zeros(8, dtype=_exact(weight.device), device=weight.device)


def _sums(logits: Tensor, classes: Tensor, operations: Tensor | None) -> Tensor:
    """Sum over images: 1, loss, among the first and the first five, interactions, classes, and two faults: (8,).

    The faults are outputs that are not finite, and a class that the model does not have.
    """
    known = (classes >= 0) & (classes < logits.shape[-1])
    classes = classes.where(known, 0)
    among = logits.topk(min(5, logits.shape[-1]), -1).indices == classes.unsqueeze(-1)
    sums = (
        classes.new_tensor(classes.shape[0]),
        F.cross_entropy(logits.float(), classes, reduction="sum"),
        among[:, :1].sum(),
        among.sum(),
        classes.new_zeros(()) if operations is None else operations.sum(),
        classes.new_tensor(logits.numel()),
        (~logits.isfinite().all(-1)).sum(),
        (~known).sum(),
    )
    return torch.stack([value.to(_exact(logits.device)) for value in sums])


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _check(images: int, infinite: int, strange: int, unreadable: Mapping[str, str]) -> None:
    """Raise ValueError, in each process alike, where the sums are no numbers of an evaluation."""
    if not images and unreadable:
        name, reason = next(iter(unreadable.items()))
        raise ValueError(
            f"`data` must have images that can be read, got none of {len(unreadable):,}: {name}: {reason}"
        )
    if not images:
        raise ValueError("`batches` must hold images, but is empty.")
    if infinite:
        raise ValueError(
            f"`model` must give finite outputs, but for {infinite:,} of {images:,} images they are NaN or infinite. "
            "Its weights may be damaged, or `amp` too narrow for them."
        )
    if strange:
        raise ValueError(
            f"`data` must have classes of the model only, but {strange:,} of {images:,} images have class numbers that "
            "it does not have. Give the order of the model's classes as a `class_map`."
        )


def _throughput(seconds: list[tuple[int, float]]) -> float:
    """Return images per second, without the first batch, which warms up, where there are more; NaN for none."""
    counted = seconds[1:] or seconds
    return sum(count for count, _ in counted) / sum(time for _, time in counted) if counted else nan


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
