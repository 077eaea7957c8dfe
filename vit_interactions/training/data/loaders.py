"""Batches of pictures on the device, by timm's loader and transforms."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from timm.data import create_loader, create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vit_interactions.images.restricted import restrict_formats
from vit_interactions.training.data.sampling import SeededDataset, TrainingBatchSampler
from vit_interactions.training.data.unreadable import (
    EvaluationBatchSampler,
    TolerantCollate,
    TolerantDataset,
    TransformedImages,
)
from vit_interactions.training.interruption import ignore_signals
from vit_interactions.training.settings import TrainingSettings
from vit_interactions.utilities.processes import Process
from vit_interactions.utilities.seeds import ORDER, seed_of

Batch = tuple[Tensor, Any]
# With the share of the batch's images that could be read.
TrainingBatch = tuple[Tensor, Any, float]


def training_transform(settings: TrainingSettings, config: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Make timm's random transform of a training picture, up to bytes; the loader makes numbers of them.

    Args:
        settings: the augmentation.
        config: of the model's input, by timm's `resolve_model_data_config`.

    Raises:
        ValueError: a policy that timm does not know.
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
    except AssertionError as error:  # what timm says to a policy that it does not know
        raise ValueError(
            f"`auto_augment` must be a policy of timm, e.g. rand-m9-mstd0.5, but got {settings.auto_augment!r}."
        ) from error
    return transform


class TrainingLoader:
    """The batches of a training, from any step of any epoch on.

    Pictures and what is done to them are functions of seed, epoch and picture (see `order`). A source that is read in
    one stream (WebDataset, TFDS) is read and skipped up to the step instead.

    An image that cannot be read is left out of its batch, and no other takes its place; so the order of the others does
    not change. (Streams skip what their readers skip.)

    Attributes:
        steps: steps in an epoch.
        unreadable: name -> reason of each image that could not be read so far.
    """

    def __init__(
        self,
        dataset: Any,
        settings: TrainingSettings,
        config: Mapping[str, Any],
        process: Process,
        collate: Callable[[Any], Batch] = fast_collate,
    ) -> None:
        """Take pictures with their transform.

        Args:
            dataset: `TransformedImages` or a `WindowedDataset`; a stream with its transform.
            settings: of the training.
            config: of the model's input.
            process: this one.
            collate: makes a batch of what the dataset gives.

        Raises:
            ValueError: a step that cannot be divided among processes and parts, or fewer pictures than one takes.
        """
        self._seed, self._parts, self._rank = settings.seed, settings.accumulate, process.rank
        self._batch = batch = batch_size_per_process(settings, process.world)
        self.unreadable: dict[str, str] = {}
        self._stream = isinstance(dataset, IterableDataset)
        self._order: TrainingBatchSampler | None = None
        options: dict[str, Any] = {"batch_size": batch, "drop_last": True}
        if not self._stream:
            self._order = TrainingBatchSampler(
                len(dataset),
                batch,
                parts=settings.accumulate,
                rank=process.rank,
                world=process.world,
                seed=self._seed,
            )
            collate = TolerantCollate(collate, dataset.blank)
            dataset = SeededDataset(TolerantDataset(dataset), self._seed)
            options = {"batch_sampler": self._order}
        self._dataset = dataset
        # A stream draws from the generators of its workers, so these are started anew for each epoch.
        workers = max(settings.workers, 1) if self._stream else settings.workers
        loader: DataLoader[Any] = DataLoader(
            dataset,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=process.device.type == "cuda",
            persistent_workers=workers > 0 and not self._stream,
            worker_init_fn=start_worker,
            **options,
        )
        self._batches = PrefetchLoader(
            loader, mean=config["mean"], std=config["std"], channels=config["input_size"][0], device=process.device
        )
        self.steps = self._order.steps if self._order else len(loader) // settings.accumulate
        if self.steps == 0:
            raise ValueError(
                f"`data` must tell how many pictures it has, at least the {settings.batch_size} of one step."
            )

    def batches(self, epoch: int, step: int) -> Iterator[TrainingBatch]:
        """Give the batches of an epoch from a step on, `accumulate` a step."""
        if self._order is not None:
            self._order.epoch, self._order.first_step = epoch, step
            for images, gathered in self._batches:
                self.unreadable.update(gathered.failed)
                yield images, gathered.target, gathered.kept / self._batch
            return
        self._dataset.set_epoch(epoch)
        torch.manual_seed(seed_of(ORDER, self._seed, epoch, self._rank))  # of which torch makes the workers' seeds
        for images, target in islice(iter(self._batches), step * self._parts, self.steps * self._parts):
            yield images, target, 1.0


def batch_size_per_process(settings: TrainingSettings, world: int) -> int:
    """Return the pictures of one batch of one process.

    Raises:
        ValueError: they are not whole, or odd where pictures are mixed in pairs.
    """
    shares = world * settings.accumulate
    batch, rest = divmod(settings.batch_size, shares)
    if rest:
        raise ValueError(
            f"`batch_size` must be a multiple of {shares}, processes times `accumulate`, but got {settings.batch_size}."
        )
    if (settings.mixup or settings.cutmix) and batch % 2:
        raise ValueError(
            f"`batch_size` must give even batches for `mixup` and `cutmix`, but gives {batch} pictures each."
        )
    return batch


def start_worker(number: int) -> None:
    """Prepare a process that loads images: it opens safe formats only, and its parent ends it."""
    restrict_formats()
    ignore_signals(number)


class EvaluationLoader:
    """The batches to evaluate on: each image that can be read once, divided among the processes.

    Attributes:
        alike: whether each process has the same number of batches; some may be empty.
        unreadable: name -> reason of each image of this process that could not be read so far.
    """

    def __init__(
        self, dataset: Any, config: Mapping[str, Any], process: Process, *, batch_size: int, workers: int
    ) -> None:
        """Take images and how to transform them.

        Args:
            dataset: of timm or torchvision, without a transform.
            config: of the model's input, by timm's `resolve_model_data_config`.
            process: this one.
            batch_size: images in a batch of one process.
            workers: processes that load images.
        """
        self.unreadable: dict[str, str] = {}
        self._stream = isinstance(dataset, IterableDataset)
        self.alike = process.world == 1 or not self._stream
        make = _stream_batches if self._stream else _image_batches
        self._batches = make(dataset, config, process, batch_size, workers)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable.clear()
        for images, gathered in self._batches:
            if self._stream:
                yield images, gathered
                continue
            self.unreadable.update(gathered.failed)
            yield images[: gathered.kept], gathered.target[: gathered.kept]


def _image_batches(dataset: Any, config: Mapping[str, Any], process: Process, batch: int, workers: int) -> Any:
    transform = create_transform(
        config["input_size"],
        is_training=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config.get("crop_mode"),
        use_prefetcher=True,
    )
    images = TransformedImages(dataset, transform)
    loader: DataLoader[Any] = DataLoader(
        TolerantDataset(images),
        batch_sampler=EvaluationBatchSampler(len(images), batch, process.rank, process.world),
        num_workers=workers,
        collate_fn=TolerantCollate(fast_collate, images.blank),
        pin_memory=process.device.type == "cuda",
        worker_init_fn=start_worker,
    )
    return PrefetchLoader(
        loader, mean=config["mean"], std=config["std"], channels=config["input_size"][0], device=process.device
    )


def _stream_batches(dataset: Any, config: Mapping[str, Any], process: Process, batch: int, workers: int) -> Any:
    loader = create_loader(
        dataset,
        config["input_size"],
        batch,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        crop_mode=config.get("crop_mode"),
        num_workers=max(workers, 1),  # where other formats than ours cannot be opened
        distributed=process.world > 1,
        device=process.device,
        persistent_workers=False,
    )
    loader.loader.worker_init_fn = start_worker
    return loader
