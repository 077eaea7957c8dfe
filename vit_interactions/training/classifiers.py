"""The model that training starts from."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from vit_interactions.loading.models import (
    check_model_name,
    classes_of,
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
    """Create a classifier of timm to train.

    Args:
        name: of timm, or registered with it: vit_*, winft_*, awd_vit_*, ...
        classes: how many there are.
        pretrained: start from the weights that timm knows for the name.
        checkpoint: start from these weights; of any input size, and with any number of classes.
        **options: of the model; those that are None are left out.

    Returns:
        The model, and notes for the user: what does not start from the weights.

    Raises:
        ValueError: an unknown name, an option that the model does not take, or a checkpoint that is not this model's.
        OSError: the weights could not be had.
    """
    check_model_name(name)
    if pretrained:
        return pretrained_model(name, num_classes=classes, **options), _head_note(name, classes)
    model = new_model(name, num_classes=classes, **options)
    return model, [] if checkpoint is None else load_initial_weights(model, name, checkpoint)


def load_classifier(name: str, checkpoint: Path | None = None, **options: Any) -> nn.Module:
    """Create a model that is trained already: a teacher, or one to evaluate.

    Args:
        name: of timm, or registered with it; also "local-dir:" and the folder of a model.
        checkpoint: its weights, for any input size; None: those that timm knows for the name.
        **options: of the model; those that are None are left out.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: an unknown name, or a checkpoint that is not this model's.
        OSError: the weights could not be had.
    """
    check_model_name(name)
    if checkpoint is None:
        return pretrained_model(name, **options).eval()
    classes = classes_of(name, read_checkpoint(checkpoint))
    model, notes = create_classifier(name, classes, checkpoint=checkpoint, **options)
    if notes:
        raise ValueError(
            f"`checkpoint` must hold the whole classifier of {name}, got one of another shape in {checkpoint}. "
            "Train the classifier first."
        )
    return model.eval()


def load_initial_weights(model: nn.Module, name: str, checkpoint: Path) -> list[str]:
    """Load weights to start from; a classifier for another number of classes starts anew.

    Args:
        model: gets the weights; a position embedding of another size is resized to its grid, as timm does.
        name: its, for errors.
        checkpoint: a safetensors file, or a pickle of weights only.

    Returns:
        Notes: what does not start from the weights.

    Raises:
        ValueError: a checkpoint that differs in more than the number of classes.
        FileNotFoundError: no such checkpoint.
    """
    wanted: dict[str, Tensor] = model.state_dict()
    weights, _ = strip_prefix(read_checkpoint(checkpoint), wanted)
    if isinstance(model, VisionTransformer):
        weights = checkpoint_filter_fn(weights, model)
    head = {key for key in {*wanted, *weights} if key.rpartition(".")[0] in _classifiers(model)}
    notes = []
    if _starts_anew(wanted, weights, head & wanted.keys()):
        before = next((weights[key].shape[0] for key in sorted(head) if key in weights), 0)
        notes = [_note(before, model.num_classes)]  # type: ignore[arg-type]
        weights = {k: v for k, v in weights.items() if k not in head} | {
            key: wanted[key] for key in head if key in wanted
        }
    load_weights(model, name, weights, checkpoint)
    return notes


def _starts_anew(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], head: Set[str]) -> bool:
    """Tell whether a classifier is missing, in part or whole, or is right but for the number of classes.

    One that is wrong in any other way is left to `load_weights`, which refuses it.
    """
    given = {key: tuple(weights[key].shape) for key in head if key in weights}
    own = {key: tuple(wanted[key].shape) for key in head}
    if given == own or len({shape[:1] for shape in given.values()}) > 1:
        return False
    return all(len(own[key]) == len(shape) and own[key][1:] == shape[1:] for key, shape in given.items())


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    names: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    return tuple(names) if isinstance(names, tuple | list) else (names,)


def _head_note(name: str, classes: int) -> list[str]:
    known = timm.get_pretrained_cfg(name)
    return [] if known is None or known.num_classes == classes else [_note(known.num_classes, classes)]


def _note(before: int, now: int) -> str:
    if before == now:
        return "the weights to start from lack a whole classifier: the classifier starts anew"
    return (
        f"the weights to start from classify into {before} classes, the data has {now}: the classifier starts anew"
    )
