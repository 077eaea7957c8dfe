"""The class that a model predicts, its name and its score, by the link of the model's own head."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.own_input import differentiable
from vit_interactions.functional.scores import Output, are_distributions, class_outputs, class_scores

PROBLEMS: dict[str, Output] = {  # `problem_type` of transformers
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "value",
}
# Autograd's names of operations that a head may end in, and of those that change neither logits nor probabilities
# into the other.
LINKS = {"Softmax", "Sigmoid"}
PRODUCTS = {"Addmm", "Mm", "Bmm", "Mv", "Dot", "Linear", "Convolution", "NativeLayerNorm"}
PASSED = {
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Select",
    "Split",
    "Index",
    "Expand",
}
PASSED |= {"Transpose", "Permute", "Clone", "ToCopy", "Alias", "Stack", "Cat", "Mean", "Sum", "Unbind", "T"}
PASSED |= {"Add", "Sub", "Rsub", "Mul", "Div", "Neg"}


@dataclass(frozen=True)
class Prediction:
    """A class of a model with its score for one image.

    Attributes:
        index: of the class, or of the output of a regression.
        name: all its names in words; None where they are not known.
        score: its probability in [0, 1]; the model's value where `output` is "value" or None.
        output: what the model's output is, see `functional.scores.class_scores`; None where it cannot be told.
    """

    index: int
    name: str | None
    score: float
    output: Output | None = "softmax"

    @property
    def label(self) -> str:
        """The class by the first of its names, or its number."""
        return (
            f"output {self.index}"
            if self.output == "value" and not self.name
            else class_label(self.index, self.name)
        )

    def __str__(self) -> str:
        """Return the class with its score in words.

        Example:
            >>> print(Prediction(281, "tabby, tabby cat", 0.873), Prediction(0, None, -1.5, "value"), sep="; ")
            tabby, 87%; output 0 = -1.5
        """
        if self.output == "value":
            return f"{self.label} = {self.score:.3g}"
        return f"{self.label}, " + (f"output {self.score:.3g}" if self.output is None else f"{self.score:.0%}")


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's output for one image.

    Attributes:
        outputs: (classes,) as the model gives them.
        scores: (classes,) float64 on the CPU, as of `Prediction.score`.
        output: as of `Prediction`.
    """

    outputs: Tensor
    scores: Tensor
    output: Output | None

    @property
    def top(self) -> int:
        """The class of the highest output; scores would tie where a probability rounds to 1."""
        return int(self.outputs.argmax())

    def prediction(self, model: nn.Module, index: int, *, named: bool) -> Prediction:
        """Return a class with its score and its name; arguments as of `class_name`."""
        return Prediction(index, class_name(model, index, named=named), float(self.scores[index]), self.output)


def predict(
    model: nn.Module, inputs: Tensor, *, named: bool, output: Output | None = None, outputs: Any = None
) -> Prediction | None:
    """Return the top class of one image; None for a model without classes.

    Args:
        model: in evaluation mode.
        inputs: (1, channels, height, width).
        named: as in `class_name`.
        output: as in `answer`.
        outputs: as in `answer`.
    """
    found = answer(model, inputs, output, outputs)
    return None if found is None else found.prediction(model, found.top, named=named)


@torch.no_grad()
def answer(model: nn.Module, inputs: Tensor, output: Output | None = None, outputs: Any = None) -> Answer | None:
    """Ask a model for the scores of one image; None for features, and for outputs that are not (1, classes) or (1,).

    Args:
        model: in evaluation mode.
        inputs: (1, channels, height, width).
        output: what the model's output is; None: see `find_output`.
        outputs: the model's output for `inputs`, if it has already run.

    Raises:
        ValueError: an output that `output` does not fit, or scores that are not finite.
    """
    if not has_classes(model):
        return None
    given = model(inputs) if outputs is None else outputs
    try:
        outputs = class_outputs(given, len(inputs))
    except ValueError:  # methods that need a class say so
        return None
    kind = output or find_output(model, inputs, outputs)
    scores = class_scores(outputs, kind or "value")
    if not scores.isfinite().all():
        raise ValueError("`model` must give finite scores, got NaN or infinite ones. Check its weights.")
    return Answer(outputs[0], scores[0], kind)


def find_output(model: nn.Module, inputs: Tensor, outputs: Tensor) -> Output | None:
    """Find out what a model's output is, from its configuration and from the output itself.

    The configuration of a classifier of transformers may say that it is a regression (`problem_type`, or one label).
    Rows that sum to 1 are probabilities, and so are outputs in [0, 1] that come from a sigmoid. Otherwise the
    configuration's `problem_type` says it. Without one, a single output is the logit of one class (sigmoid), and
    several are logits of classes of which an image has one (softmax).

    Args:
        model: in evaluation mode.
        inputs: (batch, channels, height, width).
        outputs: (batch, classes), the model's output for them.

    Returns:
        The output, or None where all outputs lie in [0, 1] and what computed them does not tell whether they are
        probabilities.
    """
    configured = configured_output(model)
    if configured == "value":
        return configured
    if are_distributions(outputs):
        return "probabilities"
    plain: Output = configured or ("sigmoid" if outputs.shape[1] == 1 else "softmax")
    if not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return plain
    last = last_operation(model, inputs)
    if last in LINKS:
        return "probabilities"
    return plain if last in PRODUCTS else None


def configured_output(model: nn.Module) -> Output | None:
    """Read the output of a classifier of transformers, which may be inside, from its configuration; None of others."""
    config = next((module.config for module in model.modules() if _classifies_images(module)), None)
    problem = getattr(config, "problem_type", None)
    if problem in PROBLEMS:
        return PROBLEMS[problem]
    return "value" if getattr(config, "num_labels", None) == 1 else None


def last_operation(model: nn.Module, inputs: Tensor) -> str:
    """Name the operation that computes a model's output, as autograd calls it; "" where it does not tell.

    Reshaping, averaging and scaling are passed over. The graph is built without the tensors that a backward pass
    needs, so it takes no more memory than a forward pass.

    Example:
        >>> last_operation(nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()), torch.zeros(1, 3))
        'Sigmoid'
    """
    with (
        differentiable(inputs) as leaf,
        evaluation_mode(model) as own,
        saved_tensors_hooks(lambda tensor: None, lambda nothing: torch.empty(0)),
    ):
        node = class_outputs(own(leaf)).grad_fn
    while node is not None:
        name = node.name().split("Backward")[0]
        if name not in PASSED:
            return name
        node = next(
            (after for after, _ in node.next_functions if after and "Accumulate" not in after.name()), None
        )
    return ""


def has_classes(model: nn.Module) -> bool:
    """Tell whether a model classifies, rather than giving features.

    A model of transformers does by its class; one of timm or torchvision if its head is there. A module around one
    of them does if that one does or if the module has parameters of its own, a head presumably. Of any other module
    nothing is known, and it is taken to classify.

    Example:
        >>> import timm
        >>> features = timm.create_model("test_vit", num_classes=0)
        >>> has_classes(features), has_classes(nn.Sequential(features, nn.Linear(64, 1)))
        (False, True)
    """
    own = _classifies(model)
    if own is not None:
        return own
    inside = {module: known for module in model.modules() if (known := _classifies(module)) is not None}
    theirs = {id(parameter) for module in inside for parameter in module.parameters()}
    return not inside or any(inside.values()) or any(id(each) not in theirs for each in model.parameters())


def _classifies(model: nn.Module) -> bool | None:
    """Tell whether a model of a known library classifies; None of others."""
    if any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__):
        return _classifies_images(model)
    classifier: Any = getattr(model, "get_classifier", None)
    if callable(classifier):
        head = classifier()
    elif hasattr(model, "num_classes"):
        head = getattr(model, "heads", None)
    else:
        return None
    heads = [each for each in (head if isinstance(head, tuple | list) else [head]) if isinstance(each, nn.Module)]
    if heads:  # which may be another than the number of classes once was
        return any(not isinstance(part, _EMPTY) for each in heads for part in each.modules())
    return bool(getattr(model, "num_classes", 0))


_EMPTY = (nn.Identity, nn.Dropout, nn.Sequential, nn.Flatten)


def _classifies_images(model: nn.Module) -> bool:
    return any("ForImageClassification" in kind.__name__ for kind in type(model).__mro__)


def class_label(index: int, name: str | None) -> str:
    """Return the first of a class's names, or its number.

    Example:
        >>> class_label(281, "tabby, tabby cat"), class_label(3, None)
        ('tabby', 'class 3')
    """
    return name.split(",")[0] if name else f"class {index}"


def class_name(model: nn.Module, index: int, *, named: bool) -> str | None:
    """Name a class in words, where it is known.

    Args:
        model: a model of transformers whose configuration names its classes, or any other.
        index: of the class.
        named: whether the classes of any other model are those of its own weights: the labels of its configuration,
            ImageNet's 1,000, or subsets that timm knows. How many classes there are does not tell what they are.

    Example:
        >>> import timm
        >>> class_name(timm.create_model("test_vit"), 281, named=True)
        'tabby, tabby cat'
    """
    labels = getattr(getattr(model, "config", None), "id2label", None) or {}
    if labels.get(index, f"LABEL_{index}") != f"LABEL_{index}":
        return str(labels[index])
    names = _class_names(model) if named else []
    return names[index] if 0 <= index < len(names) else None


def _class_names(model: nn.Module) -> list[str]:
    """List what a model of timm with its own weights calls its classes; empty where that is not known."""
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    labels = known.get("label_names") or ()
    if labels and len(labels) == getattr(model, "num_classes", None):
        words = known.get("label_descriptions") or {}
        return [words.get(label, label) for label in labels]
    subset = infer_imagenet_subset(model)
    return list(ImageNetInfo(subset).label_descriptions()) if subset else []
