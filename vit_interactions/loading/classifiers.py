"""Create timm classifiers by name: to train from initial weights, or trained already."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vit_interactions.loading.models import (
    check_model_name,
    count_classes,
    load_weights,
    new_model,
    pretrained_model,
    read_checkpoint,
    strip_prefix,
)


def create_classifier(
    name: str,
    classes: int,
    *,
    pretrained: bool = False,
    checkpoint: Path | None = None,
    **options: Any,
) -> tuple[nn.Module, list[str]]:
    """Create a classifier to train.

    Args:
        name: a timm model, or one registered with timm: vit_*, winft_*, awd_vit_*, ...
        classes: number of classes.
        pretrained: start from timm's pretrained weights.
        checkpoint: start from these weights, of any input size and number of classes.
        **options: of the model; None values are ignored.

    Returns:
        The model, and notes for the user on what is re-initialized.

    Raises:
        ValueError: an unknown name, an option that the model does not take, or a checkpoint of another model.
        OSError: weights that could not be downloaded or read.
    """
    check_model_name(name)
    if pretrained:
        known = timm.get_pretrained_cfg(name)
        before = classes if known is None else known.num_classes
        notes = [] if before == classes else [_new_head_note(before, classes)]
        return pretrained_model(name, num_classes=classes, **options), notes
    model = new_model(name, num_classes=classes, **options)
    return model, [] if checkpoint is None else load_initial_weights(model, name, checkpoint)


def load_classifier(name: str, checkpoint: Path | None = None, **options: Any) -> nn.Module:
    """Load a trained classifier in evaluation mode: a teacher, or a model to evaluate.

    Args:
        name: as in `create_classifier`; or "local-dir:" and the folder of a model.
        checkpoint: its weights, of any input size; None for timm's pretrained weights.
        **options: of the model; None values are ignored.

    Raises:
        ValueError: an unknown name, or a checkpoint of another model.
        OSError: weights that could not be downloaded or read.
    """
    check_model_name(name)
    if checkpoint is None:
        return pretrained_model(name, **options).eval()
    classes = count_classes(name, read_checkpoint(checkpoint))
    model, notes = create_classifier(name, classes, checkpoint=checkpoint, **options)
    if notes:
        raise ValueError(
            f"`checkpoint` must contain the whole classifier of {name}, got one of another shape in {checkpoint}. "
            "Train the classifier first."
        )
    return model.eval()


def load_initial_weights(model: nn.Module, name: str, checkpoint: Path) -> list[str]:
    """Load weights to start from; a head for another number of classes is re-initialized.

    A position embedding of another size is resized to the model's grid, as timm does.

    Returns:
        Notes for the user on what is re-initialized.

    Raises:
        ValueError: a checkpoint that differs in more than the number of classes.
    """
    wanted: dict[str, Tensor] = model.state_dict()
    weights, _ = strip_prefix(read_checkpoint(checkpoint), wanted)
    if isinstance(model, VisionTransformer):
        weights = checkpoint_filter_fn(weights, model)
    classifier: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    heads = classifier if isinstance(classifier, tuple | list) else (classifier,)
    head = {key for key in {*wanted, *weights} if key.rpartition(".")[0] in heads}
    notes = []
    if _is_other_head(wanted, weights, head & wanted.keys()):
        before = next((weights[key].shape[0] for key in sorted(head) if key in weights), 0)
        notes = [_new_head_note(before, model.num_classes)]  # type: ignore[arg-type]
        weights = {key: value for key, value in weights.items() if key not in head}
        weights |= {key: wanted[key] for key in head if key in wanted}
    load_weights(model, name, weights, checkpoint)
    return notes


def _is_other_head(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], head: Set[str]) -> bool:
    """Return True if the head is missing, partly or wholly, or differs only in the number of classes.

    `load_weights` raises an error for any other difference.
    """
    given = {key: tuple(weights[key].shape) for key in head if key in weights}
    own = {key: tuple(wanted[key].shape) for key in head}
    if given == own or len({shape[:1] for shape in given.values()}) > 1:
        return False
    return all(len(own[key]) == len(shape) and own[key][1:] == shape[1:] for key, shape in given.items())


def _new_head_note(before: int, now: int) -> str:
    if before == now:
        return "the initial weights lack part of the head, which is re-initialized"
    return f"the initial weights have {before} classes, the data {now}: the head is re-initialized"
