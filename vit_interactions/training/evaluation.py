"""How well a classifier does, and with how many patch interactions."""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from vit_interactions.training.interactions import all_pairs, classify_and_count


@dataclass(frozen=True)
class Evaluation:
    """What came out of an evaluation.

    Attributes:
        pictures: how many were classified.
        loss: cross-entropy, in nats a picture.
        top1: share of pictures whose class got the highest score, in percent.
        top5: share whose class was among the five highest, in percent.
        operations: E_O, patch interactions averaged over pictures (and layers); None for what is no ViT.
        pairs: N², all pairs of patches; None for what is no ViT.
        throughput: pictures a second and process that the model takes, loading not counted.
    """

    pictures: int
    loss: float
    top1: float
    top5: float
    operations: float | None
    pairs: int | None
    throughput: float

    def as_row(self) -> dict[str, float | int | None]:
        """Return name -> number."""
        return asdict(self)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    limit: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Classify all pictures of this process, and of the others where there are any.

    Args:
        model: a classifier of timm, in evaluation mode; an AWD-ViT with its teacher.
        batches: images (batch, channels, height, width) and classes (batch,), on the model's device.
        limit: pictures of this process that count, where the last ones only fill up; None: all.
        autocast: the context to compute in.

    Returns:
        The means over all pictures, the same in every process.

    Raises:
        ValueError: no pictures.

    Example:
        >>> import timm
        >>> batch = torch.zeros(2, 3, 160, 160), torch.tensor([0, 1])
        >>> evaluate(timm.create_model("test_vit").eval(), [batch]).operations
        10000.0
    """
    parts, seconds, pairs, counted, taken = [], [], None, True, 0
    for images, classes in batches:
        start = time.perf_counter()
        with autocast():
            logits, operations = classify_and_count(model, images)
        _wait_for(images.device)
        seconds.append((images.shape[0], time.perf_counter() - start))
        pairs = all_pairs(model, images)
        counted = operations is not None
        keep = images.shape[0] if limit is None else max(min(limit - taken, images.shape[0]), 0)
        taken += keep
        parts.append(_sums(logits[:keep], classes[:keep], None if operations is None else operations[:keep]))
    if not parts:
        raise ValueError("`batches` must hold pictures, but is empty.")
    sums = torch.stack(parts).sum(0)
    if distributed.is_initialized():
        distributed.all_reduce(sums)
    pictures, loss, top1, top5, operations_sum = sums.tolist()
    return Evaluation(
        pictures=int(pictures),
        loss=loss / pictures,
        top1=100 * top1 / pictures,
        top5=100 * top5 / pictures,
        operations=operations_sum / pictures if counted else None,
        pairs=pairs,
        throughput=_throughput(seconds),
    )


def _sums(logits: Tensor, classes: Tensor, operations: Tensor | None) -> Tensor:
    """Sum over pictures: 1, loss, whether among the first and the first five, interactions: (5,)."""
    among = logits.topk(min(5, logits.shape[-1]), -1).indices == classes.unsqueeze(-1)
    sums = (
        classes.new_tensor(classes.shape[0]),
        F.cross_entropy(logits.float(), classes, reduction="sum"),
        among[:, :1].sum(),
        among.sum(),
        classes.new_zeros(()) if operations is None else operations.sum(),
    )
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    return torch.stack([value.to(exact) for value in sums])


def _throughput(seconds: list[tuple[int, float]]) -> float:
    """Pictures a second, without the first batch, which warms up, where there are more."""
    counted = seconds[1:] or seconds
    return sum(count for count, _ in counted) / sum(time for _, time in counted)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
