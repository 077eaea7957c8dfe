"""Find the images of a study whose objects cover some patches, but not all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.probe import token_layout
from vit_interactions.images.boxes import ObjectBox, inside_boxes
from vit_interactions.images.failures import recorded_failure
from vit_interactions.images.prepared import PreparedImage, prepare
from vit_interactions.images.reading import read_image
from vit_interactions.utilities.files import sha256
from vit_interactions.utilities.text import printable


@dataclass(frozen=True, eq=False)
class StudyImage:
    """An image of a study.

    Attributes:
        path: of its file.
        sha256: of its file.
        boxes: around its objects.
        inside: (rows, cols) bool, the patches on an object.
    """

    path: Path
    sha256: str
    boxes: tuple[ObjectBox, ...]
    inside: Tensor

    def as_json(self) -> dict[str, Any]:
        """Return what the results depend on."""
        return {
            "name": printable(self.path.name),
            "sha256": self.sha256,
            "boxes": [[box.left, box.top, box.right, box.bottom] for box in self.boxes],
        }


def find_objects(
    model: nn.Module,
    boxes: Mapping[Path, Sequence[ObjectBox]],
    track: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> tuple[list[StudyImage], list[Path], dict[str, str]]:
    """Find the patches on the objects of each image.

    Args:
        model: the model; its preprocessing determines where patches lie.
        boxes: image -> boxes around its objects, in pixels.
        track: passes on the images and may show the progress.

    Returns:
        The images; those whose boxes contain the center of no patch or of every patch, which allow no comparison; and
        those that cannot be read -> reason.

    Raises:
        UnsupportedModelError: the model has no attention among patches.
    """
    images, uniform = list[StudyImage](), list[Path]()
    failed = dict[str, str]()
    for path in track(boxes):
        with recorded_failure(failed, path):
            digest = sha256(path, "image")
            prepared = prepare(read_image(path), model)
            inside = patches_on_object(model, prepared, boxes[path])
            if inside.any() and not inside.all():
                images.append(StudyImage(path, digest, tuple(boxes[path]), inside))
            else:
                uniform.append(path)
    return images, uniform, failed


def patches_on_object(model: nn.Module, prepared: PreparedImage, boxes: Sequence[ObjectBox]) -> Tensor:
    """Return the patches whose center lies in a box: (rows, cols) bool."""
    height, width = prepared.input.shape[-2:]
    return inside_boxes(prepared, token_layout(model, (height, width)), boxes)
