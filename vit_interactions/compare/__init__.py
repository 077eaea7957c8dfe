"""Explanations side by side: numbers, pictures and pages."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from PIL import Image
from torch import nn

from vit_interactions.images.bundled import DEFAULT_MODEL

if TYPE_CHECKING:
    from vit_interactions.compare.comparison import Comparison
    from vit_interactions.explain.configured import Methods
    from vit_interactions.functional.scores import Output
    from vit_interactions.metrics import Metric

Photographs = Iterable[str | PathLike[str] | Image.Image]


def compare(
    photographs: Photographs,
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
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    batch_size: int = 1,
) -> "Comparison":
    """Measure the maps of methods on photographs under models by metrics.

    Results are written photograph by photograph, so that a run that is killed loses at most the batch that each
    process is at, and measuring takes no more memory for more photographs. What goes wrong in a photograph, a
    method or a metric is written down, and the rest goes on. Under torchrun each process measures its share, and
    every process gets the whole comparison.

    Args:
        photographs: pictures: files, folders with pictures directly in them, or images of Pillow; files come first.
        model: a name, as `loading.load_model` takes it; a model, which is used where it is and given back as it was;
            or several of them by the names that tables shall call them.
        methods: names that `vit-interactions methods` lists, also with options ("gmar:norm=l1"); or a mapping from
            names of your own to such names, explainer classes, partials of classes (`partial(vi.GMAR, norm="l1")`), or
            functions from a model to its explainer. By default those of few passes, and the random control.
        metrics: names of `compare.metrics.METRICS`, or metrics that its functions make; by default the cheap ones.
        boxes: a CSV file of boxes around objects: file (a photograph's name, with as many folders before it as tell it
            from others), left, top, right, bottom in its pixels, and index, the model's number of the class, where it
            is known. A patch is on the object if its centre lies in a box of the explained class.
        masks: in the place of boxes, a folder of PNG pictures with the photographs' names (cat.png for cat.jpg; in
            folders where these tell photographs apart) and sizes, the way up that they are shown. What is not 0 is
            object, of whatever class; with a palette 255, VOC's void, is not. A patch is on the object if at least
            half of it is.
        target: the class that is explained, "pred" for that of the highest score, or "boxes" for that of the first box.
        output: what the models give: "softmax" (logits of classes of which an image has one), "sigmoid" (logits of
            classes each of which an image may have, or of one class), "probabilities", or "value" (regression). By
            default read from the model's configuration and its output, see `predictions.find_output`.
        alpha: share of all patch pairs that count as relevant, in [0, 1].
        beta: share of the patches that are dropped as indiscriminative, in [0, 1].
        out: folder for the results, made if missing; by default one that is deleted with the comparison.
        resume: keep what is in `out` already of the same photographs, by the same settings and weights.
        device: where models given by name go; "auto" is CUDA, then MPS, then the CPU. Other models stay where they are.
        seed: of what metrics and intervals draw; methods that draw have seeds of their own.
        batch_size: photographs that are explained at once. Cards may be faster with more; a map's time is then its
            share in that of the batch, its memory that of the whole batch.

    Returns:
        The comparison, whose results are read from its folder.

    Raises:
        ValueError: arguments that do not fit, or a folder that holds something else, also a comparison that was
            begun with other settings.
        BlockingIOError: another run is writing to the folder.
        WriteError: the disk is full, or the folder cannot be written to.
        UnsupportedModelError: a model whose attention cannot be explained.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=5)
        >>> noise = Image.effect_noise((80, 80), 50)
        >>> comparison = compare([noise], model, ["raw_attention", "random_map"], ["insertion", "deletion"])
        >>> comparison.summary().shape
        (10, 8)
    """
    from vit_interactions.compare.comparison import Comparison
    from vit_interactions.compare.plan import make_plan
    from vit_interactions.compare.run import run, temporary_folder
    from vit_interactions.utilities.locks import locked
    from vit_interactions.utilities.processes import joined

    with ExitStack() as held, joined(device) as process:
        plan = make_plan(
            photographs,
            model,
            methods,
            metrics,
            boxes=boxes,
            masks=masks,
            target=target,
            output=output,
            alpha=alpha,
            beta=beta,
            device=str(process.device),
            seed=seed,
            batch_size=batch_size,
        )
        folder = temporary_folder(process, resume=resume) if out is None else Path(out)
        held.enter_context(locked(folder, first=process.first))  # until all processes have come to the end
        try:
            run(plan, folder, process, resume=resume)
        except BaseException:
            if out is None:
                rmtree(folder, ignore_errors=True)
            raise
    return Comparison.open(folder, delete=out is None)
