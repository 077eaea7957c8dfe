"""The class that a model predicts, its name, and its score with the link function of the model's head."""

from dataclasses import dataclass
from typing import Any

import torch
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.own_input import differentiable
from vit_interactions.functional.scores import Output, are_distributions, class_outputs, class_scores

PROBLEMS: dict[str, Output] = {  # transformers' `problem_type`
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "value",
}
# Autograd's names of operations: link functions, operations whose outputs are logits, and operations that keep logits
# logits and probabilities probabilities.
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
    """A class with its score for one image.

    Attributes:
        index: index of the class, or of the output of a regression.
        name: all names of the class, comma-separated; None if unknown.
        score: probability in [0, 1]; the model's raw value if `output` is "value" or None.
        output: kind of the model's output, see `functional.scores.class_scores`; None if ambiguous.
    """

    index: int
    name: str | None
    score: float
    output: Output | None = "softmax"

    @property
    def label(self) -> str:
        """The first name of the class, or its number."""
        if self.output == "value" and not self.name:
            return f"output {self.index}"
        return class_label(self.index, self.name)

    def __str__(self) -> str:
        """Format the class with its score.

        Example:
            >>> print(Prediction(281, "tabby, tabby cat", 0.873), Prediction(0, None, -1.5, "value"), sep="; ")
            tabby, 87%; output 0 = -1.5
        """
        if self.output == "value":
            return f"{self.label} = {self.score:.3g}"
        return f"{self.label}, " + (f"output {self.score:.3g}" if self.output is None else f"{self.score:.0%}")


def prediction_text(prediction: Prediction | None, target: Prediction | None = None) -> str:
    """Describe the predicted class of an image, and the target class if it is another.

    Example:
        >>> prediction_text(Prediction(281, "tabby", 0.87), Prediction(207, "golden retriever", 0.02))
        'tabby, 87% (target: golden retriever, 2%)'
    """
    if prediction is None:
        return "no classes"
    return (
        str(prediction)
        if target is None or target.index == prediction.index
        else f"{prediction} (target: {target})"
    )


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """A model's output for one image.

    Attributes:
        outputs: (classes,) raw outputs.
        scores: (classes,) float64 on the CPU, see `Prediction.score`.
        output: kind of the output, see `Prediction`.
    """

    outputs: Tensor
    scores: Tensor
    output: Output | None

    @property
    def top(self) -> int:
        """The predicted class, by raw output, because probabilities may tie when they round to 1."""
        return int(self.outputs.argmax())

    def prediction(self, model: nn.Module, index: int, *, named: bool) -> Prediction:
        """Return a class with its score and its name; for the arguments see `class_name`."""
        return Prediction(index, class_name(model, index, named=named), float(self.scores[index]), self.output)


def predict(
    model: nn.Module, inputs: Tensor, *, named: bool, output: Output | None = None, outputs: Any = None
) -> Prediction | None:
    """Return the predicted class of one image; None for a model without classes.

    Args:
        model: model in eval mode.
        inputs: (1, channels, height, width).
        named: see `class_name`.
        output: see `model_output`.
        outputs: see `model_output`.
    """
    found = model_output(model, inputs, output, outputs)
    return None if found is None else found.prediction(model, found.top, named=named)


@torch.no_grad()
def model_output(
    model: nn.Module, inputs: Tensor, output: Output | None = None, outputs: Any = None
) -> ModelOutput | None:
    """Run a classifier on one image; return None for feature extractors and outputs that are not (1, classes) or (1,).

    Args:
        model: model in eval mode.
        inputs: (1, channels, height, width).
        output: kind of the output; None: see `find_output`.
        outputs: the model's output for `inputs`, if it has already run.

    Raises:
        ValueError: an output that does not fit `output`, or scores that are not finite.
    """
    if not has_classes(model):
        return None
    raw = model(inputs) if outputs is None else outputs
    try:
        outputs = class_outputs(raw, len(inputs))
    except ValueError:  # methods that need a class raise this error
        return None
    kind = output or find_output(model, inputs, outputs)
    scores = class_scores(outputs, kind or "value")
    if not scores.isfinite().all():
        raise ValueError("`model` must return finite scores, got NaN or infinite values. Check its weights.")
    return ModelOutput(outputs[0], scores[0], kind)


def find_output(model: nn.Module, inputs: Tensor, outputs: Tensor) -> Output | None:
    """Infer the kind of a model's output from its configuration and from the output itself.

    A transformers classifier may be configured as a regression (`problem_type`, or one label). Rows that sum to 1 are
    probabilities, and so are outputs in [0, 1] that come from a sigmoid. Otherwise the configured `problem_type` is
    used. Without one, a single output is the logit of one class (sigmoid), and several outputs are logits of mutually
    exclusive classes (softmax).

    Args:
        model: model in eval mode.
        inputs: (batch, channels, height, width).
        outputs: (batch, classes), the model's output for the inputs.

    Returns:
        The kind, or None if all outputs lie in [0, 1] and may or may not be probabilities.
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
    """Read the kind of output from the configuration of a transformers classifier in the model, if there is one."""
    config = next((module.config for module in model.modules() if _classifies_images(module)), None)
    problem = getattr(config, "problem_type", None)
    if problem in PROBLEMS:
        return PROBLEMS[problem]
    return "value" if getattr(config, "num_labels", None) == 1 else None


def last_operation(model: nn.Module, inputs: Tensor) -> str:
    """Return autograd's name of the last operation that computes a model's output, or "" if unknown.

    Reshaping, averaging and scaling are skipped. The graph is built without the tensors that a backward pass needs, so
    it takes no more memory than a forward pass.

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
    """Check whether a model is a classifier and not a feature extractor.

    A transformers model is one by its type, a timm or torchvision model if it has a head. A module that contains such a
    model is a classifier if that model is, or if the module has other parameters, presumably a head. Any other module
    is assumed to be a classifier.

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
    """Check whether a model of a known library is a classifier; return None for other models."""
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
    if heads:  # checked before `num_classes`, which is stale if the head was replaced
        return any(not isinstance(part, _EMPTY) for each in heads for part in each.modules())
    return bool(getattr(model, "num_classes", 0))


_EMPTY = (nn.Identity, nn.Dropout, nn.Sequential, nn.Flatten)


def _classifies_images(model: nn.Module) -> bool:
    return any("ForImageClassification" in kind.__name__ for kind in type(model).__mro__)


def class_label(index: int, name: str | None) -> str:
    """Return the first of a class's comma-separated names, or its number if it has no name.

    Example:
        >>> class_label(281, "tabby, tabby cat"), class_label(3, None)
        ('tabby', 'class 3')
    """
    return name.split(",")[0] if name else f"class {index}"


def class_name(model: nn.Module, index: int, *, named: bool) -> str | None:
    """Return the names of a class, comma-separated, or None if unknown.

    Args:
        model: any model; transformers' configurations name the classes.
        index: index of the class.
        named: whether other models have the classes of their pretrained weights: the labels in the configuration,
            ImageNet's 1,000 classes, or timm's subsets of them. The number of classes alone does not identify them.

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
    """Return the class names of timm's pretrained weights for the model; empty if unknown."""
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    labels = known.get("label_names") or ()
    if labels and len(labels) == getattr(model, "num_classes", None):
        words = known.get("label_descriptions") or {}
        return [words.get(label, label) for label in labels]
    subset = infer_imagenet_subset(model)
    return list(ImageNetInfo(subset).label_descriptions()) if subset else []
