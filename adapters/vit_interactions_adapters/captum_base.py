"""What captum's methods as explainers share: the scores that captum sees, and the way from pixels to patches."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from captum.log import log_usage
from torch import Tensor, nn

from vit_interactions import Explainer, TokenLayout
from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probe import as_arguments, check_images
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.explain.zero_map import warn_of_zeros
from vit_interactions.functional.scores import class_outputs

Forward = Callable[..., Tensor]
Attribute = Callable[[Forward, Tensor, tuple[Any, ...]], Any]


class CaptumMethod(Explainer):
    """One of captum's methods over the pixels of the input.

    Attributes:
        per_patch: whether a patch's value is the "sum" over its pixels and channels, or their "mean" where the
            attribution of each pixel already is that of its patch.
    """

    class_specific = True
    needs_attention = False
    backwards = 1
    library = "captum"
    per_patch: ClassVar[str] = "sum"

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Give captum's own attribution of the input's shape.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: a class in captum's forms, "pred", or a function of the output.
            additional_forward_args: further arguments of the model; a tuple is spread. Tensors among them have
                one row an example, as captum wants.

        Returns:
            A tensor of the input's shape, at least float32, contiguous, on its device; a tuple if `inputs`
            was one.
        """
        attribution = self._pixels(only_tensor(inputs), target, additional_forward_args)
        warn_of_zeros(type(self).__name__, attribution)
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        layout = image_layout(self.model, inputs, additional_forward_args)
        pixels = self._pixels(inputs, target, additional_forward_args)
        sums = _over_patches(pixels, layout)
        if self.per_patch == "mean":
            sums = sums / _over_patches(torch.ones_like(pixels), layout)
        return sums, layout

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
        """Let captum compute the attribution."""
        raise NotImplementedError

    def _scores(
        self, model: nn.Module, inputs: Tensor, target: Any, arguments: tuple[Any, ...]
    ) -> tuple[Forward, tuple[Any, ...]]:
        """Make the function from images to scores that captum explains, and its further arguments.

        captum repeats rows, of the images and of the arguments. The last argument says which example a row is.
        """
        if isinstance(target, str) and target == "pred":
            # Once, on the images themselves: the prediction changes on the way to a baseline.
            with torch.no_grad(), evaluation_mode(model):
                target = class_outputs(model(inputs, *arguments), len(inputs)).argmax(1)
        example = torch.arange(len(inputs), device=inputs.device)

        def forward(images: Tensor, *rest: Any) -> Tensor:
            with evaluation_mode(model):  # captum's own draws are not the model's
                output = model(images.to(inputs.dtype), *rest[:-1])  # captum's noise is float32
            pick = partial(select_target, target=target, batch=len(inputs))
            scores = _score_rows(output, rest[-1], len(inputs), pick)
            if torch.is_grad_enabled() and images.requires_grad:
                check_differentiable(model, scores, images)
            return scores

        return forward, (*arguments, example)


def _score_rows(output: Any, example: Tensor, batch: int, score: Callable[[Any], Tensor]) -> Tensor:
    """Score rows of which `example` says to which image they belong, though `score` wants one of each image."""
    if torch.equal(example, torch.arange(batch, device=example.device)):
        return score(output)
    turn = (example.unsqueeze(1) == example).tril(-1).sum(1)  # rows of the same image that came before
    scores, rows_of_turns = [], []
    for number in range(int(turn.max()) + 1):
        rows = (turn == number).nonzero().squeeze(1)
        one_of_each = rows[:1].repeat(batch)  # images without such a row are given any, and not looked at
        one_of_each[example[rows]] = rows
        scores.append(score(_take(output, one_of_each))[example[rows]])
        rows_of_turns.append(rows)
    return torch.cat(scores)[torch.cat(rows_of_turns).argsort()]


def _take(output: Any, rows: Tensor) -> Any:
    """Take rows of an output, which may hold several tensors as transformers' do."""
    if isinstance(output, Tensor):
        return output[rows]
    if isinstance(output, Mapping):
        return type(output)(**{name: _take(part, rows) for name, part in output.items()})
    if isinstance(output, tuple):
        return tuple(_take(part, rows) for part in output)
    raise TypeError(
        f"the model's output must be a tensor or a mapping of tensors, but got {type(output).__name__}."
    )


def _over_patches(pixels: Tensor, layout: TokenLayout) -> Tensor:
    """Add up pixels and channels of each patch: (batch, patches)."""
    (height, width), (rows, cols) = layout.extent, layout.grid
    # Negative padding cuts off what no patch covers.
    covered = F.pad(pixels.sum(1), (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))
    return covered.reshape(-1, rows, height // rows, cols, width // cols).sum((2, 4)).flatten(1)
