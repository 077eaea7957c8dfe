"""Compare explanation methods: tables, figures and reports."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from PIL import Image
from torch import nn

from vit_interactions.utilities.choices import DEFAULT_MODEL

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison
    from vit_interactions.explain.configured import Methods
    from vit_interactions.functional.scores import Output
    from vit_interactions.metrics import Metric

Images = Iterable[str | PathLike[str] | Image.Image]


def compare(
    images: Images,
    model: str | nn.Module | Mapping[str, str | nn.Module] = DEFAULT_MODEL,
    methods: "Methods | None" = None,
    metrics: "Iterable[str | Metric] | None" = None,
    *,
    boxes: str | PathLike[str] | None = None,
    masks: str | PathLike[str] | None = None,
    target: int | str = "pred",
    output: "Output | None" = None,
    alpha: float = 0.10,
    beta: float = 0.20,
    coverage: float = 1.0,
    exclude_sinks: bool = False,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    batch_size: int = 1,
) -> "Comparison":
    """Compare explanation methods on images, side by side.

    Results are written image by image: an interrupted run loses at most the batch in progress, and memory does not grow
    with the number of images, except for the tables. If an image, a method or a metric fails, the failure is recorded
    and the run continues. Under torchrun, the images are divided among the processes, and every process returns the
    whole comparison.

    Args:
        images: files, folders with images directly in them, or Pillow images; files come first.
        model: a name for `loading.load_model`; a model, which is used on its device and not modified; or several of
            them by display name.
        methods: names from `vit-interactions methods`, with options if needed ("gmar:norm=l1"). Or a mapping from
            custom names to such names, explainer classes, partials of classes (`partial(vi.GMAR, norm="l1")`), or
            functions from a model to its explainer. By default the fast ones, and the random baseline.
        metrics: names from `metrics.METRICS`, or `Metric` objects; by default the cheap ones.
        boxes: a CSV file of boxes around objects: file (the image's name, with as many parent folders as needed to
            make it unique), left, top, right, bottom in pixels of the image, and index, the model's class index, if
            known. A patch is on the object if its center lies in a box of the target class.
        masks: instead of boxes, a folder of PNG files with the images' names (cat.png for cat.jpg; in folders if needed
            to make them unique) and sizes, upright. All nonzero pixels count as object, for any class;
            in palette images 255 (void in VOC) does not. A patch is on the object if at least half of its area is.
        target: class to explain, "pred" for the predicted class, or "boxes" for the class of the first box.
        output: what the models return: "softmax" (logits of mutually exclusive classes), "sigmoid" (logits of
            independent classes, or of one class), "probabilities", or "value" (regression). By default detected from
            the model's configuration and its output, see `predictions.find_output`.
        alpha: fraction of all patch pairs that count as relevant, in [0, 1].
        beta: fraction of patches that are dropped as indiscriminative, in [0, 1].
        coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the paper's
            bounding box. See `adaptive_windows`.
        exclude_sinks: leave attention sinks out of the patch interaction methods and of attention rollout.
        out: folder for the results, made if missing; by default a temporary one, deleted with the comparison. It also
            gets `table.csv` and `summary.csv`, kept up to date during the run.
        resume: keep the results in `out` that have the same images, settings and weights.
        device: for models given by name; "auto" is CUDA, then MPS, then the CPU. Other models stay where they are.
        seed: random seed of metrics and bootstrap intervals; methods have their own seeds.
        batch_size: images per batch. Larger batches may be faster on a GPU. The reported time of a map is that of the
            batch divided by its images; the reported memory is that of the whole batch.

    Returns:
        The comparison, which reads its results from the folder.

    Raises:
        ValueError: invalid arguments, or a folder with other content, such as a comparison with other
            settings.
        BlockingIOError: another run is writing to the folder.
        WriteError: the disk is full, or the folder is not writable.
        UnsupportedModelError: a model whose attention is not supported.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=5)
        >>> noise = Image.effect_noise((80, 80), 50)
        >>> comparison = compare([noise], model, ["raw_attention", "random_map"], ["insertion", "deletion"])
        >>> comparison.summary().shape
        (10, 11)
    """
    from vit_interactions.compare.comparison import Comparison
    from vit_interactions.compare.csv_files import write_csv_files
    from vit_interactions.compare.plan import make_plan
    from vit_interactions.compare.run import run, temporary_folder
    from vit_interactions.utilities.locks import locked
    from vit_interactions.utilities.processes import process_group

    with ExitStack() as held:
        with process_group(device) as process:
            plan = make_plan(
                images,
                model,
                methods,
                metrics,
                boxes=boxes,
                masks=masks,
                target=target,
                output=output,
                alpha=alpha,
                beta=beta,
                coverage=coverage,
                exclude_sinks=exclude_sinks,
                device=str(process.device),
                seed=seed,
                batch_size=batch_size,
            )
            folder = temporary_folder(process, resume=resume) if out is None else Path(out)
            held.enter_context(locked(folder, first=process.first))  # until all processes have finished
            try:
                run(plan, folder, process, resume=resume)
            except BaseException:
                if out is None:
                    rmtree(folder, ignore_errors=True)
                raise
        if process.first:
            write_csv_files(Comparison.open(folder))
    return Comparison.open(folder, delete=out is None)
