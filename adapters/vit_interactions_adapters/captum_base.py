"""Base class of captum's methods as explainers: the scores that captum explains, and sums over patches."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from captum.log import log_usage
from torch import Tensor, nn

from vit_interactions import Explainer, TokenLayout
from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.request import as_arguments, check_images
from vit_interactions.explain.attn_lrp import sum_patches
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.libra_grad import Gradient, gradient_rules
from vit_interactions.explain.targets import require_target, select_rows, select_target
from vit_interactions.explain.zero_map import warn_of_zeros
from vit_interactions.functional.scores import class_outputs

Forward = Callable[..., Tensor]
Attribute = Callable[[Forward, Tensor, tuple[Any, ...]], Any]


class CaptumMethod(Explainer):
    """One of captum's methods over the pixels of the input.

    Attributes:
        gradient: gradient of the model; see `LibraRules` for "libra".
        per_patch: how pixels and channels of a patch are combined: "sum", or "mean" if each pixel has the attribution
            of its patch.
    """

    class_specific = True
    needs_attention = False
    backwards = 1
    library = "captum"
    per_patch: ClassVar[str] = "sum"
    gradient: Gradient = "plain"

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return captum's attribution.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: target class in captum's forms, "pred", or a function of the output.
            additional_forward_args: further arguments of the model; a tuple is unpacked. Tensors must have one row per
                example, as captum expects.

        Returns:
            A contiguous tensor of the input's shape, on its device, at least float32; a tuple if `inputs` is a tuple.
        """
        attribution = self._pixels(only_tensor(inputs), target, additional_forward_args)
        warn_of_zeros(type(self).__name__, attribution)
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        layout = image_layout(self.model, inputs, additional_forward_args)
        pixels = self._pixels(inputs, target, additional_forward_args)
        sums = sum_patches(pixels, layout)
        if self.per_patch == "mean":
            sums = sums / sum_patches(torch.ones_like(pixels), layout)
        return sums.flatten(1), layout

    def _pixels(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, attribute: Attribute | None = None
    ) -> Tensor:
        check_images(self.model, inputs)
        require_target(type(self).__name__, target)
        with differentiable(inputs) as leaf:
            model = evaluated(self.model)
            forward, arguments = self._scores(model, leaf, target, as_arguments(additional_forward_args))
            attribution: Tensor = (attribute or self._attribution)(forward, leaf, arguments)
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        return attribution.detach().to(dtype).contiguous()

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        """Compute the attribution with captum."""
        raise NotImplementedError

    def _scores(
        self, model: nn.Module, inputs: Tensor, target: Any, arguments: tuple[Any, ...]
    ) -> tuple[Forward, tuple[Any, ...]]:
        """Create the function from images to scores that captum explains, and its further arguments.

        captum repeats rows of the images and of the arguments. The last argument is the example of each row.
        """
        if isinstance(target, str) and target == "pred":
            # Only once, for the images themselves: the predicted class changes along a path to a baseline.
            with torch.no_grad(), evaluation_mode(model):
                target = class_outputs(model(inputs, *arguments), len(inputs)).argmax(1)
        example = torch.arange(len(inputs), device=inputs.device)
        rules = gradient_rules(self.gradient, model)

        def forward(images: Tensor, *rest: Any) -> Tensor:
            # Only around the model: captum's random numbers are separate from the model's.
            with rules or nullcontext(), evaluation_mode(model):
                output = model(images.to(inputs.dtype), *rest[:-1])  # captum's noise is float32
            pick = partial(select_target, target=target, batch=len(inputs))
            scores = _score_rows(output, rest[-1], len(inputs), pick)
            if torch.is_grad_enabled() and images.requires_grad:
                check_differentiable(model, scores, images)
                if rules is not None:
                    rules.check_graph(scores)
            return scores

        return forward, (*arguments, example)


def _score_rows(output: Any, example: Tensor, batch: int, score: Callable[[Any], Tensor]) -> Tensor:
    """Score rows that belong to the images in `example`, with a function that needs exactly one row per image."""
    if torch.equal(example, torch.arange(batch, device=example.device)):
        return score(output)
    turn = (example.unsqueeze(1) == example).tril(-1).sum(1)  # number of earlier rows of the same image
    scores, rows_of_turns = [], []
    for number in range(int(turn.max()) + 1):
        rows = (turn == number).nonzero().squeeze(1)
        one_of_each = rows[:1].repeat(batch)  # filler for images without such a row; its score is ignored
        one_of_each[example[rows]] = rows
        scores.append(score(select_rows(output, one_of_each))[example[rows]])
        rows_of_turns.append(rows)
    return torch.cat(scores)[torch.cat(rows_of_turns).argsort()]
