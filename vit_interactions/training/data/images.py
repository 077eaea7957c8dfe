"""Read the images of a dataset by their index, without replacing unreadable ones."""

import os
from typing import Any

from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder
from torch.utils.data import IterableDataset
from torchvision.datasets.folder import DatasetFolder, default_loader

from vit_interactions.images.reading import read_image
from vit_interactions.images.restricted import only_supported_formats


def image_names(dataset: Any) -> list[str]:
    """List the names of a dataset's images: paths relative to its folder, or indices if it has no files.

    Args:
        dataset: of timm or torchvision.

    Raises:
        ValueError: a stream, whose images have no indices, or a dataset with its own transform.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> image_names(FakeData(size=3))
        ['0', '1', '2']
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"`dataset` must be indexed by image, got the stream {type(dataset).__name__}. Use a teacher online."
        )
    if getattr(dataset, "transform", None) is not None:
        raise ValueError(
            "`dataset` must come without its own transform, which would move images off their windows."
        )
    if hasattr(dataset, "filenames"):
        return [str(name) for name in dataset.filenames()]
    return [image_name(dataset, index) for index in range(len(dataset))]


def image_name(dataset: Any, index: int) -> str:
    """Return one of the names that `image_names` lists."""
    if hasattr(dataset, "filename"):
        return str(dataset.filename(index) or index)
    if hasattr(dataset, "samples") and hasattr(dataset, "root"):
        return os.path.relpath(str(dataset.samples[index][0]), dataset.root)
    return str(index)


def read_sample(dataset: Any, index: int) -> tuple[Image.Image, Any]:
    """Read an image, upright and in RGB, and its target, before any transform.

    timm's datasets replace an unreadable image by the next one; here it raises an error.

    Args:
        dataset: of timm or torchvision, without a transform.
        index: of the image.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unreadable image, as in `read_image`.
    """
    if isinstance(dataset, DatasetFolder) and dataset.loader is default_loader:
        path, target = dataset.samples[index]
        return read_image(path), target if dataset.target_transform is None else dataset.target_transform(target)
    reader = getattr(dataset, "reader", None)
    if reader is None:
        with only_supported_formats():  # torchvision's datasets and others open files themselves
            image, target = dataset[index]
        return image, target
    if isinstance(reader, ReaderImageFolder):
        file, target = reader.samples[index]  # the reader would open it, and wait forever for a named pipe
    else:
        file, target, *_ = reader[index]
    try:
        image = read_image(file).convert(dataset.input_img_mode or "RGB")
    finally:
        getattr(file, "close", lambda: None)()
    target = -1 if target is None else target
    change = dataset.target_transform
    return image, target if change is None or target == -1 else change(target)
