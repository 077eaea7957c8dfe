"""Loaders of training and evaluation batches, made of timm's transforms and prefetcher."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from timm.data import create_loader, create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vit_interactions.images.restricted import restrict_formats
from vit_interactions.training.data.sampling import SeededDataset, TrainingBatchSampler, evaluation_batches
from vit_interactions.training.data.unreadable import TolerantDataset, TransformedImages, tolerant_collate
from vit_interactions.training.interruption import ignore_signals
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.utilities.processes import Process
from vit_interactions.utilities.seeds import ORDER, seed_of

Batch = tuple[Tensor, Any]
TrainingBatch = tuple[Tensor, Any, float]  # with the fraction of the batch's images that could be read


def training_transform(settings: TrainingSettings, config: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Create timm's random transform to bytes, which the loader normalizes.

    Raises:
        ValueError: an unknown AutoAugment policy.
    """
    try:
        transform: Callable[[Any], Any] = create_transform(
            config["input_size"],
            is_training=True,
            scale=(settings.scale, 1.0),
            hflip=settings.hflip,
            color_jitter=settings.color_jitter,
            auto_augment=settings.auto_augment,
            interpolation="random",
            mean=config["mean"],
            std=config["std"],
            use_prefetcher=True,
        )
    except AssertionError as error:  # raised by timm for an unknown policy
        raise ValueError(
            f"`auto_augment` must be a timm policy, e.g. rand-m9-mstd0.5, got {settings.auto_augment!r}."
        ) from error
    return transform


class TrainingLoader:
    """Training batches from any step of any epoch on.

    Images and their augmentation are a function of seed, epoch and image (see `sampling`). A stream (WebDataset, TFDS)
    is read and skipped up to the step instead.

    An unreadable image is skipped and not replaced, so the order of the others does not change. (Streams skip what
    timm's readers skip.)

    Attributes:
        steps: steps per epoch.
        unreadable: name -> reason of each unreadable image so far.
    """

    def __init__(
        self,
        dataset: Any,
        settings: TrainingSettings,
        config: Mapping[str, Any],
        process: Process,
        collate: Callable[[Any], Batch] = fast_collate,
    ) -> None:
        """Load `TransformedImages`, a `WindowedDataset`, or a stream with its transform.

        Raises:
            ValueError: a step that cannot be divided among processes and batches, or fewer images than one step takes.
        """
        self._seed, self._parts, self._rank = settings.seed, settings.accumulate, process.rank
        self._batch = batch = batch_size_per_process(settings, process.world)
        self.unreadable: dict[str, str] = {}
        self._sampler: TrainingBatchSampler | None = None
        workers = settings.workers
        options: dict[str, Any]
        if isinstance(dataset, IterableDataset):
            # A stream draws random numbers in its workers, which are therefore restarted for each epoch.
            workers = max(workers, 1)
            options = {"batch_size": batch, "drop_last": True, "persistent_workers": False, "collate_fn": collate}
        else:
            place = {"parts": self._parts, "rank": self._rank, "world": process.world}
            self._sampler = TrainingBatchSampler(len(dataset), batch, seed=self._seed, **place)
            options = {"batch_sampler": self._sampler, "persistent_workers": workers > 0}
            options["collate_fn"] = partial(tolerant_collate, collate, dataset.blank)
            dataset = SeededDataset(TolerantDataset(dataset), self._seed)
        self._dataset = dataset
        self._batches = _prefetch(dataset, config, process, workers, **options)
        self.steps = self._sampler.steps if self._sampler else len(self._batches) // self._parts
        if self.steps == 0:
            raise ValueError(
                f"`data` must know its number of images, at least the {settings.batch_size} of one step."
            )

    def batches(self, epoch: int, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches of an epoch from a step on, `accumulate` per step."""
        if self._sampler is not None:
            self._sampler.epoch, self._sampler.first_step = epoch, step
            for images, target in self._batches:
                self.unreadable.update(target.unreadable)
                yield images, target.target, target.read / self._batch
            return
        self._dataset.set_epoch(epoch)
        torch.manual_seed(seed_of(ORDER, self._seed, epoch, self._rank))  # from which torch seeds the workers
        for images, target in islice(iter(self._batches), step * self._parts, self.steps * self._parts):
            yield images, target, 1.0


def batch_size_per_process(settings: TrainingSettings, world: int) -> int:
    """Return the number of images in one batch of one process.

    Raises:
        ValueError: not a whole number, or odd if images are mixed in pairs.
    """
    shares = world * settings.accumulate
    batch, rest = divmod(settings.batch_size, shares)
    if rest:
        raise ValueError(
            f"`batch_size` must be a multiple of {shares}, processes times `accumulate`, got {settings.batch_size}."
        )
    if (settings.mixup or settings.cutmix) and batch % 2:
        raise ValueError(f"`batch_size` must give even batches for `mixup` and `cutmix`, got {batch} images each.")
    return batch


class EvaluationLoader:
    """Evaluation batches: each readable image once, divided among the processes.

    Attributes:
        alike: True if each process has the same number of batches, of which some may be empty.
        unreadable: name -> reason of each unreadable image of this process so far.
    """

    def __init__(
        self, dataset: Any, config: Mapping[str, Any], process: Process, *, batch_size: int, workers: int
    ) -> None:
        """Load a timm or torchvision dataset without a transform, `batch_size` images per batch and process."""
        self.unreadable: dict[str, str] = {}
        self._stream = isinstance(dataset, IterableDataset)
        self.alike = process.world == 1 or not self._stream
        options = {key: config[key] for key in ("interpolation", "mean", "std", "crop_pct")}
        options["crop_mode"] = config.get("crop_mode")
        if self._stream:
            self._batches: Any = create_loader(
                dataset,
                config["input_size"],
                batch_size,
                num_workers=max(workers, 1),  # where `start_worker` restricts the formats
                distributed=process.world > 1,
                device=process.device,
                persistent_workers=False,
                **options,
            )
            self._batches.loader.worker_init_fn = start_worker
            return
        transform = create_transform(config["input_size"], is_training=False, use_prefetcher=True, **options)
        images = TransformedImages(dataset, transform)
        self._batches = _prefetch(
            TolerantDataset(images),
            config,
            process,
            workers,
            batch_sampler=evaluation_batches(len(images), batch_size, process.rank, process.world),
            collate_fn=partial(tolerant_collate, fast_collate, images.blank),
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable.clear()
        for images, target in self._batches:
            if self._stream:
                yield images, target
                continue
            self.unreadable.update(target.unreadable)
            yield images[: target.read], target.target[: target.read]


def _prefetch(dataset: Any, config: Mapping[str, Any], process: Process, workers: int, **options: Any) -> Any:
    """Load batches of bytes in worker processes, and normalize them on the device."""
    cuda = process.device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        dataset, num_workers=workers, pin_memory=cuda, worker_init_fn=start_worker, **options
    )
    channels = config["input_size"][0]
    return PrefetchLoader(loader, mean=config["mean"], std=config["std"], channels=channels, device=process.device)


def start_worker(number: int) -> None:
    """Prepare a worker process: it opens safe image formats only, and leaves signals to its parent."""
    restrict_formats()
    ignore_signals(number)
