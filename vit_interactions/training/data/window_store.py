"""Windows of every image of a dataset on disk, in 4 bytes and one bit per patch.

A store is a folder: `manifest.json` describes the windows, `names.txt.gz` lists the images, and each `shard-*.bin`
contains records of fixed length, one per image: left, top, right and bottom of each patch's window, one byte each, then
one bit per patch, set if the patch is dropped. At 224 x 224 pixels and patches of 16, a record has 4 * 196 + 25 = 809
bytes, 1.04 GB for ImageNet. A record of bytes 255 marks an unreadable image. A shard ends in the SHA-256 of the
manifest, the shard's number and its records, which is checked when a store is opened and when a build is resumed.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_interactions.utilities.checks import check_index
from vit_interactions.utilities.json_files import (
    DamagedFileError,
    check_keys,
    has_json_type,
    read_json,
    short_repr,
)

MANIFEST, NAMES = "manifest.json", "names.txt.gz"
UNREADABLE = 255
CHECKSUM_BYTES = 32  # a SHA-256 at the end of each shard
REBUILD = "Rebuild it with `vit-interactions windows --resume`."
REMAKE = "Restore the file, or build the store again in another folder."
LARGEST_SIDE = 255  # patches, so that the largest bound, 254, differs from `UNREADABLE`

Records = NDArray[np.uint8]


@dataclass(frozen=True)
class Manifest:
    """Everything that determines the windows of a store: equal manifests, equal windows.

    Attributes:
        teacher: SHA-256 of the teacher's weights; see `checksum`.
        architecture: SHA-256 of the teacher's architecture; see `architecture_checksum`.
        alpha: fraction of all patch pairs that count as relevant.
        beta: fraction of patches that are dropped.
        grid: (rows, cols) of patches.
        image_size: (height, width) in pixels to which whole images are resized for the teacher.
        mean: subtracted from each channel.
        std: divisor of each channel.
        interpolation: of the resizing.
        images: number of images.
        names: SHA-256 of their names.
        shard: images per shard, except in the last one.
        format: version of the file format.
        coverage: fraction of a patch's relevant patches that its window contains at least.
        exclude_sinks: whether attention sinks are relevant to no other patch.
    """

    teacher: str
    architecture: str
    alpha: float
    beta: float
    grid: tuple[int, int]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    images: int
    names: str
    shard: int
    format: int = 3
    coverage: float = 1.0
    exclude_sinks: bool = False

    @property
    def record_bytes(self) -> int:
        """Bytes per image."""
        patches = self.grid[0] * self.grid[1]
        return 4 * patches + -(-patches // 8)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard)

    def shard_images(self, number: int) -> range:
        """Return the indices of the images in a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, self.images))

    def checksum(self, number: int, records: bytes | memoryview) -> bytes:
        """Compute the SHA-256 at the end of a shard: of this manifest, the shard's number and its records."""
        digest = hashlib.sha256(f"{self.as_json()}{number}".encode())
        digest.update(records)
        return digest.digest()

    def read_shard(self, folder: Path, number: int) -> Records | None:
        """Read the records (images, bytes) of a shard; None if it is missing, damaged or of another manifest."""
        path = folder / shard_name(number)
        count = len(self.shard_images(number))
        size = count * self.record_bytes
        if not path.is_file() or path.stat().st_size != size + CHECKSUM_BYTES:
            return None
        content = path.read_bytes()
        if self.checksum(number, memoryview(content)[:size]) != content[size:]:
            return None
        return np.frombuffer(content, np.uint8, size).reshape(count, self.record_bytes)

    def as_json(self) -> str:
        """Return the text of `manifest.json`, without later additions that have their default values."""
        content = {name: value for name, value in asdict(self).items() if value != ADDED.get(name)}
        return json.dumps(content, indent=2) + "\n"


# Settings that older stores lack, and their values there.
ADDED = {"coverage": 1.0, "exclude_sinks": False}
# JSON has lists, not tuples.
FIELDS = {each.name: list if get_origin(each.type) is tuple else each.type for each in fields(Manifest)}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        FileNotFoundError: no manifest.
        DamagedFileError: a manifest that is damaged, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"`store` must be a folder built by `vit-interactions windows`, got no {path}.")
    content = ADDED | (read_json(path, REMAKE) or {})
    check_manifest(path, content)
    for name, kind in FIELDS.items():
        if kind is list:
            content[name] = tuple(content[name])
    return Manifest(**content)


def check_manifest(path: Path, content: dict[str, Any]) -> None:
    """Raise DamagedFileError, naming file and key, unless `content` is that of a manifest."""
    if content.get("format") != Manifest.format:
        raise DamagedFileError(
            f"`store` must be a window store of format {Manifest.format}, got format "
            f"{short_repr(content.get('format'))} in {path}",
            REMAKE,
        )
    check_keys(path, content, FIELDS, REMAKE)
    expected: dict[str, tuple[bool, str]] = {
        **{name: (0 <= content[name] <= 1, "in [0, 1]") for name in ("alpha", "beta", "coverage")},
        **{name: (content[name] >= 1, ">= 1") for name in ("images", "shard")},
        "grid": (_is_size(content["grid"], LARGEST_SIDE), f"two whole numbers in [1, {LARGEST_SIDE}]"),
        "image_size": (_is_size(content["image_size"], 10**6), "two whole numbers >= 1"),
        **{
            name: (all(has_json_type(v, float) for v in content[name]), "a list of numbers")
            for name in ("mean", "std")
        },
    }
    for name, (holds, words) in expected.items():
        if not holds:
            raise DamagedFileError(f"{path}: `{name}` must be {words}, got {short_repr(content[name])}", REMAKE)
    if content.keys() != FIELDS.keys():
        raise DamagedFileError(f"{path} has an unknown key `{min(content.keys() - FIELDS.keys())}`", REMAKE)


def _is_size(value: Sequence[Any], largest: int) -> bool:
    return len(value) == 2 and all(has_json_type(side, int) and 1 <= side <= largest for side in value)


def count_unreadable(folder: Path) -> int | None:
    """Count the unreadable images of a store; return None while shards are missing or damaged."""
    manifest, count = read_manifest(folder), 0
    for number in range(manifest.shards):
        records = manifest.read_shard(folder, number)
        if records is None:
            return None
        count += int((records[:, 0] == UNREADABLE).sum())
    return count


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.bin"


def encode_names(names: Sequence[str]) -> bytes:
    """Encode names, one per line; bytes of file names that are not text stay as they are."""
    return "\n".join(names).encode(errors="surrogateescape")


def names_checksum(names: Sequence[str]) -> str:
    """Compute the SHA-256 of names in order."""
    return hashlib.sha256(encode_names(names)).hexdigest()


def read_names(folder: Path, manifest: Manifest) -> list[str] | None:
    """Read the names of a store's images; None if the file is missing or damaged."""
    try:
        content = gzip.decompress((folder / NAMES).read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    if hashlib.sha256(content).hexdigest() != manifest.names:
        return None
    return content.decode(errors="surrogateescape").split("\n")


def pack(windows: Tensor, dropped: Tensor) -> Records:
    """Pack windows (batch, patches, 4) and dropped patches (batch, patches) into records (batch, bytes).

    Example:
        >>> pack(torch.tensor([[[0, 0, 1, 0], [1, 0, 1, 0]]]), torch.tensor([[False, True]]))
        array([[ 0,  0,  1,  0,  1,  0,  1,  0, 64]], dtype=uint8)
    """
    bounds = windows.to(torch.uint8).flatten(1).cpu().numpy()
    return np.concatenate([bounds, np.packbits(dropped.cpu().numpy(), axis=1)], axis=1)


def unpack(records: Records, patches: int) -> tuple[Tensor, Tensor]:
    """Unpack records (batch, bytes) to windows (batch, patches, 4) uint8 and dropped patches (batch, patches) bool."""
    bounds = torch.from_numpy(records[:, : 4 * patches].reshape(-1, patches, 4))
    bits = np.unpackbits(records[:, 4 * patches :], axis=1, count=patches)
    return bounds, torch.from_numpy(bits.astype(bool))


class WindowStore:
    """The windows of every image of a dataset, memory-mapped from disk.

    Attributes:
        folder: of the store.
        manifest: describes the windows.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open a store.

        Raises:
            FileNotFoundError: no store there.
            ValueError: a store that is incomplete, damaged, or of another version.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        lost = [n for n in range(self.manifest.shards) if self.manifest.read_shard(self.folder, n) is None]
        missing = [number for number in lost if not (self.folder / shard_name(number)).exists()]
        for number in sorted({*lost} - {*missing}):
            raise DamagedFileError(
                f"{self.folder / shard_name(number)} is damaged, or does not belong to its manifest.json: its length "
                "or checksum differs",
                REBUILD,
            )
        if missing:
            raise ValueError(
                f"`store` must be complete, got {self.folder}: {len(missing)} of {self.manifest.shards} shards are "
                f"missing, the first is {shard_name(missing[0])}. Finish it with `vit-interactions windows --resume`."
            )
        self._shards: dict[int, Records] = {}

    def __len__(self) -> int:
        return self.manifest.images

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the files themselves instead of getting copies of their content.
        return {**self.__dict__, "_shards": {}}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the windows (patches, 4) uint8 and the dropped patches (patches,) bool of an image.

        Raises:
            IndexError: no such image.
            ValueError: an image that was unreadable when the store was built.
        """
        windows, dropped = self.lookup([index])
        return windows[0], dropped[0]

    def lookup(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the windows (batch, patches, 4) uint8 and dropped patches (batch, patches) bool of several images."""
        for index in indices:
            if not self.is_readable(index):
                raise ValueError(
                    f"Image {index} ({self.names[index]}) has no windows: it could not be read when the store was "
                    "built."
                )
        rows, cols = self.manifest.grid
        return unpack(np.stack([self._record(index) for index in indices]), rows * cols)

    def is_readable(self, index: int) -> bool:
        """Return True if the image could be read when the store was built, so that it has windows."""
        return bool(self._record(index)[0] != UNREADABLE)

    @property
    def names(self) -> list[str]:
        """The names of the images.

        Raises:
            DamagedFileError: a list of names that is missing or damaged.
        """
        found = read_names(self.folder, self.manifest)
        if found is None:
            raise DamagedFileError(f"{self.folder / NAMES} is missing or damaged", REBUILD)
        return found

    def check_names(self, names: Sequence[str]) -> None:
        """Raise ValueError, naming the first difference, unless the images have these names in this order."""
        if len(names) != len(self):
            raise ValueError(
                f"`store` must be built from the images of the dataset, got {len(self)} in {self.folder} and "
                f"{len(names)} in the dataset."
            )
        if names_checksum(names) != self.manifest.names:
            first = next(n for n, (own, other) in enumerate(zip(self.names, names, strict=True)) if own != other)
            raise ValueError(
                f"`store` must be built from the images of the dataset, got other names: image {first} is "
                f"{self.names[first]!r} in {self.folder} and {names[first]!r} in the dataset."
            )

    def _record(self, index: int) -> Records:
        if not 0 <= check_index("index", index) < len(self):
            raise IndexError(f"`index` must be in [0, {len(self) - 1}], got {index}.")
        number, place = divmod(index, self.manifest.shard)
        if number not in self._shards:
            shape = len(self.manifest.shard_images(number)), self.manifest.record_bytes
            self._shards[number] = np.memmap(self.folder / shard_name(number), np.uint8, "r", shape=shape)
        record: Records = self._shards[number][place]
        return record
