"""Explain fixed images while a model is trained, in any training loop."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image
from torch import distributed, nn

from vit_interactions.explain.configured import Methods
from vit_interactions.explain.settings import Settings
from vit_interactions.images import read_image
from vit_interactions.images.prepared import PreparedImage, prepare
from vit_interactions.images.reading import to_rgb
from vit_interactions.training.log import Row, TensorBoard, WeightsAndBiases, Writer, image_class
from vit_interactions.training.map_folder import MapFolder
from vit_interactions.training.snapshot import Snapshot, take_snapshot
from vit_interactions.utilities.checks import check_fraction
from vit_interactions.utilities.names import unique_names
from vit_interactions.utilities.text import describe_error

METHODS = ("attention_rollout", "interaction_uncertainty", "responsive_field_size")
PART = "explain"
DPI = 100
ImageLike = str | PathLike[str] | Image.Image


class ExplainCallback:
    """Shows how the maps and interactions of fixed images change while a model is trained.

    Call it with the model and the step, from any loop and in any process; only the first process of a distributed
    run computes and writes. The training is not affected: weights, gradients, mode and random numbers stay the same,
    bit for bit. Whatever fails is reported once and skipped, and the training continues.

    Each image becomes one picture with the maps of all methods. The numbers are E_O, the patch pairs in the image's
    responsive fields at α and β, and the number of patches that are attention sinks: "operations" and "sinks" (means
    over images), "fraction" (E_O relative to all pairs), "operations/NAME" and "sinks/NAME".

    Example:
        >>> import timm
        >>> from tempfile import TemporaryDirectory
        >>> from vit_interactions.images.bundled import bundled_images
        >>> model = timm.create_model("test_vit")
        >>> with TemporaryDirectory() as folder:
        ...     explain = ExplainCallback(bundled_images()[:1], [folder], every=100)
        ...     for step in range(101):  # ... train the model, then
        ...         explain(model, step)
        ...     sorted(path.name for path in Path(folder, "astronaut").iterdir())
        ['step_00000000.png', 'step_00000100.png']
    """

    def __init__(
        self,
        images: Iterable[ImageLike] | Mapping[str, ImageLike],
        writers: Iterable[Any],
        *,
        methods: Methods = METHODS,
        every: int = 1,
        alpha: float = 0.10,
        beta: float = 0.20,
        coverage: float = 1.0,
        exclude_sinks: bool = False,
        target: int | str = "pred",
        transform: Any = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        """Read the images.

        Args:
            images: paths or PIL images, or a mapping from names to them.
            writers: any of: a folder, for PNG files and `interactions.csv`; a `SummaryWriter` of TensorBoard; a run of
                Weights & Biases; an object with the methods of `training.log.Writer`.
            methods: as in `vi.compare`.
            every: write at steps that this number divides, ≥ 1.
            alpha: fraction of all patch pairs that count as relevant, in [0, 1].
            beta: fraction of patches dropped as indiscriminative, in [0, 1].
            coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1].
            exclude_sinks: leave out attention sinks in E_O and in the methods that have this option.
            target: class for class-specific methods, or "pred" for the predicted class at each step.
            transform: evaluation transform of the training; None for that of the timm model.
            notify: receives each problem once; None emits a warning.

        Raises:
            FileNotFoundError: an image that does not exist.
            ValueError: no image or writer, an unreadable image, an unknown method, or a number out of range.
            TypeError: an unknown kind of writer.
        """
        check_fraction("alpha", alpha)
        check_fraction("beta", beta)
        check_fraction("coverage", coverage)
        if every < 1:
            raise ValueError(f"`every` must be >= 1, got {every}.")
        self.every = every
        self._settings = Settings(
            "",
            methods=methods,  # type: ignore[arg-type]
            alpha=alpha,
            beta=beta,
            coverage=coverage,
            exclude_sinks=exclude_sinks,
            target=target,
        )
        self._images = read_images(images)
        self._writers = [as_writer(writer) for writer in writers]
        if not self._images or not self._writers:
            missing = "writers" if self._images else "images"
            raise ValueError(f"`{missing}` must contain at least one, got none.")
        self._transform, self._notify, self._reported = transform, notify, set[str]()
        self._prepared: dict[str, PreparedImage] = {}

    def __call__(self, model: nn.Module, step: int) -> None:
        """Explain the images by the model and write the results, if the step is due.

        Args:
            model: the trained model or its moving average, in any mode, compiled or distributed.
            step: number of finished steps or epochs; after an interruption, a step that is written again replaces the
                previous version in a folder.
        """
        if step % self.every or (distributed.is_initialized() and distributed.get_rank() != 0):
            return
        try:
            self._explain(model, step)
        # An explanation is never worth a training.
        except Exception as error:
            self._report(f"step {step} could not be explained", describe_error(error))

    def _explain(self, model: nn.Module, step: int) -> None:
        if not self._prepared:
            self._prepared = {name: prepare(image, model, self._transform) for name, image in self._images.items()}
        found = {
            name: take_snapshot(model, image.input.unsqueeze(0), self._settings)
            for name, image in self._prepared.items()
        }
        for snapshot in found.values():
            for reason in dict.fromkeys(snapshot.failed.values()):
                names = [name for name, why in snapshot.failed.items() if why == reason]
                self._report(f"step {step}: {', '.join(names)} could not be computed", reason)
        pictures = {
            name: self._picture(name, step, snapshot)
            for name, snapshot in found.items()
            if snapshot.maps or snapshot.operations is not None
        }
        if not pictures:
            return
        for writer in self._writers:
            try:
                writer.add(PART, interactions_row(found), step, pictures)
            # The others may still work.
            except Exception as error:
                self._report(f"step {step} could not be written by {type(writer).__name__}", describe_error(error))

    def _picture(self, name: str, step: int, snapshot: Snapshot) -> Image.Image:
        kinds = {method.name: method.kind for method in self._settings.methods}
        maps = [(method, kinds[method], values) for method, values in snapshot.maps.items()]
        title = f"{name}, step {step}"
        if snapshot.operations is not None:
            pairs = snapshot.layout.patches**2
            title += f": E_O {snapshot.operations:,} of {pairs:,} pairs ({snapshot.fraction:.1%})"
        # Matplotlib is loaded when it is needed, so that importing the package is fast.
        from vit_interactions.figures.several_maps import maps_figure
        from vit_interactions.figures.shown import rendered

        layout, sinks = snapshot.layout, snapshot.sinks
        return rendered(maps_figure(self._prepared[name], maps, layout, title=title, sinks=sinks), DPI)

    def _report(self, text: str, reason: str) -> None:
        """Report a problem, unless one with this reason was reported before."""
        if reason in self._reported:
            return
        self._reported.add(reason)
        text = f"{text}: {reason} The training continues, and the same problem is not reported again."
        if self._notify is None:
            warnings.warn(text, stacklevel=4)
        else:
            self._notify(text)


def interactions_row(snapshots: Mapping[str, Snapshot]) -> Row:
    """Summarize E_O and attention sinks: means over images, and values per image; None if unknown.

    Example:
        >>> from torch import tensor
        >>> from vit_interactions.attention.layout import TokenLayout
        >>> layout = TokenLayout(prefix=1, rows=1, cols=2, readout="token", extent=(16, 32))
        >>> row = interactions_row({"cat": Snapshot(layout, operations=3, sinks=tensor([True, False]))})
        >>> row["operations"], row["fraction"], row["sinks/cat"]
        (3.0, 0.75, 1)
    """
    found = snapshots.values()
    return {
        "operations": _mean([each.operations for each in found]),
        "fraction": _mean([each.fraction for each in found]),
        "sinks": _mean([each.sink_count for each in found]),
        **{f"operations/{name}": each.operations for name, each in snapshots.items()},
        **{f"sinks/{name}": each.sink_count for name, each in snapshots.items()},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def read_images(images: Iterable[ImageLike] | Mapping[str, ImageLike]) -> dict[str, Image.Image]:
    """Read images, each under a different name that a file may have.

    Example:
        >>> list(read_images([Image.new("RGB", (2, 2)), Image.new("L", (2, 2))]))
        ['image_1', 'image_2']
    """
    if isinstance(images, str | PathLike | Image.Image):
        raise TypeError(f"`images` must be a collection of images, got one {type(images).__name__}.")
    if isinstance(images, Mapping):
        named = list(images.items())
    else:
        named = [
            (f"image_{number}" if isinstance(image, Image.Image) else Path(image).stem, image)
            for number, image in enumerate(images, 1)
        ]
    names = unique_names(name for name, _ in named)
    read = [to_rgb(image) if isinstance(image, Image.Image) else read_image(image) for _, image in named]
    return dict(zip(names, read, strict=True))


def as_writer(target: Any) -> Writer:
    """Return a writer to a folder, a `SummaryWriter` of TensorBoard or a run of Weights & Biases, or a given writer.

    Raises:
        TypeError: anything else.
    """
    if isinstance(target, str | PathLike):
        return MapFolder(Path(target))
    if callable(getattr(target, "add_scalar", None)) and callable(getattr(target, "add_image", None)):
        return TensorBoard(target)
    if callable(getattr(target, "log", None)) and image_class(target) is not None:
        return WeightsAndBiases(target)
    if callable(getattr(target, "add", None)) and callable(getattr(target, "close", None)):
        writer: Writer = target
        return writer
    raise TypeError(
        "`writers` must be folders, SummaryWriters of TensorBoard, runs of Weights & Biases or objects with the "
        f"methods of `training.log.Writer`, got {type(target).__name__}."
    )
