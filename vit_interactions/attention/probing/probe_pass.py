"""Run a model on a random image and read what it does from the graph of that pass."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy
import torch
from torch import Tensor, nn

from vit_interactions.attention.declared import declared_layout, stated_layout
from vit_interactions.attention.errors import (
    ImagesNotTakenError,
    UnobservableModelError,
    UnsupportedModelError,
    named,
)
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.examine import Probe, examine
from vit_interactions.attention.graph import ancestors, node_of, noise
from vit_interactions.attention.isolation import Isolation
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.cuts import CutWatch
from vit_interactions.attention.probing.outputs import main_output, tensors_of
from vit_interactions.attention.probing.request import ProbeRequest, as_arguments
from vit_interactions.attention.record import AttentionCall, AttentionRecord, intercept

SAME = 1e-4  # relative difference up to which an output is the same: what a cut changes is more, rounding is less
SAME_QUERY = 1e-2  # the same for an image's query, alone and in a batch
SEEDS = 8  # further passes of a model that draws random numbers: few coins fall the same way every time
Pick = Callable[[Any], Tensor]
Rerun = Callable[..., tuple[Tensor, CutWatch]]
_Result = TypeVar("_Result")


def probe_pass(request: ProbeRequest, additional_forward_args: Any, pick: Pick | None = None) -> Probe:
    """Probe with one image, or with the given number of images if the model takes no other.

    Args:
        request: the model and its images.
        additional_forward_args: as they were given.
        pick: computes the tensor to trace from the model's output. Default: its main tensor, also checking whether
            the others are read alike.

    Raises:
        UnsupportedModelError: a model that cannot be explained by its attention.
        ImagesNotTakenError: images that the model does not take.
    """

    def run(image: Tensor, arguments: tuple[Any, ...]) -> tuple[_Trial, Probe, bool]:
        trial = _Trial(request, image, arguments, pick)
        return trial, *trial.probe(image)

    trial, found, drew = on_random_image(request, additional_forward_args, run)
    for seed in range(1, 1 + SEEDS) if drew else ():
        trial.check_same(found, seed)
    # Shares may differ for another image, for example where the largest patches are read.
    if found.layout.shares is None or trial.probe(1 - trial.image)[0].has_shares_of(found):
        return found
    return replace(found, layout=replace(found.layout, shares=None))


def on_random_image(
    request: ProbeRequest, additional_forward_args: Any, run: Callable[[Tensor, tuple[Any, ...]], _Result]
) -> _Result:
    """Return run(images, arguments) for one random image, or for as many as were given."""
    try:
        return run(request.image, request.arguments)
    except ImagesNotTakenError as error:
        if request.guessed:
            raise ImagesNotTakenError(f"{error} {request.guessed}") from error
        if request.batch == 1:
            raise
        return run(request.image.repeat(request.batch, 1, 1, 1), as_arguments(additional_forward_args))


@dataclass(frozen=True)
class _Trial:
    """A model, the random images and arguments that it takes, and the part of its output to trace."""

    request: ProbeRequest
    image: Tensor
    arguments: tuple[Any, ...]
    pick: Pick | None

    def probe(self, image: Tensor, seed: int | None = None) -> tuple[Probe, bool]:
        """Return the result of one pass, and whether the model drew random numbers in it."""
        own = evaluated(self.request.model)
        before = _other_generators()
        pick = self.pick or main_output
        with differentiable(image) as leaf:
            calls, returned, watch, drew = _record(own, leaf.clone(), self.arguments, seed)
            drew = drew or before != _other_generators()
            output = pick(returned)
            whole = None if self.pick is None else _sum_of(returned)
            others = [t for t in tensors_of(returned) if t is not output and t.requires_grad and not self.pick]
            try:
                found = examine(own, leaf, calls, output, not others, whole)
            except UnobservableModelError as error:
                return _assumed(self.request, str(error)), drew
            except (RuntimeError, NotImplementedError) as error:
                if "derivative" not in str(error) and "not implemented" not in str(error):
                    raise
                return _assumed(self.request, f"{str(error).splitlines()[0]}."), drew

            def rerun(*how: Any) -> tuple[Tensor, CutWatch]:
                _, again, watch, _ = _record(own, leaf.clone(), self.arguments, seed, *how)
                return pick(again), watch

            _check_cuts(own, leaf, output, watch, rerun)
        _check_folds(own, image, self.arguments, calls)
        return found, drew

    def check_same(self, found: Probe, seed: int) -> None:
        """Raise UnsupportedModelError if a pass with other random numbers shows other places or layers."""
        try:
            same = self.probe(self.image, seed)[0].agrees(found)
        except UnsupportedModelError:
            same = False
        if not same:
            raise UnsupportedModelError(
                f"{type(self.request.root).__name__} draws random numbers in evaluation mode that move or drop "
                "patches, or change its layers (shuffled or dropped tokens, a random flip or crop). Turn that off, or "
                "pass the random numbers as an argument, such as `noise` in ViTMAE."
            )


def _sum_of(returned: Any) -> Tensor:
    """Sum all numbers of an output that have a gradient, with random weights."""
    parts = [(tensor * noise(tensor)).sum() for tensor in tensors_of(returned) if tensor.requires_grad]
    return torch.stack([part.to(parts[0]) for part in parts]).sum()


def _assumed(request: ProbeRequest, reason: str) -> Probe:
    """Return the stated or declared layout of a model that cannot be observed; raise UnobservableModelError if none."""
    size = request.shape[1:]
    try:
        layout = stated_layout(request.root) or declared_layout(request.model, size)
    except UnsupportedModelError as error:
        raise UnobservableModelError(f"{reason} {error}") from error
    return Probe(size, layout, None, None, reason)


def _other_generators() -> tuple[Any, ...]:
    """Return the states of Python's and numpy's generators, which models may draw from too."""
    state: Any = numpy.random.get_state(legacy=False)["state"]
    return random.getstate(), state["pos"], state["key"].tobytes()


def _record(
    model: nn.Module,
    image: Tensor,
    arguments: tuple[Any, ...],
    seed: int | None = None,
    before: CutWatch | None = None,
    disturbed: Collection[int] = (),
) -> tuple[list[AttentionCall], Any, CutWatch, bool]:
    """Return the attention calls of a pass, the model's output, its cuts, and whether it drew random numbers.

    `seed` is for the model's random numbers, by default those it would draw anyway; for `before` and `disturbed` see
    `CutWatch`.
    """
    record = AttentionRecord(model, declared_layout)
    calls: list[AttentionCall] = []
    with intercept(record, model, calls.append) as mode:
        isolation = Isolation(model, seed)
        mode.run = watch = CutWatch(isolation, mode.running, before, disturbed)
        returned = run_model(model, image, arguments)
    record.check_read()
    return calls, returned, watch, isolation.drew


def _check_folds(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], calls: Sequence[AttentionCall]
) -> None:
    """Raise UnsupportedModelError if heads are folded into the batch so that those of two images mix."""
    folded = [index for index, call in enumerate(calls) if call.outputs[0].ndim == 3]
    if not folded or len(image) > 1:
        return
    twice = tuple(torch.cat((a, a)) if isinstance(a, Tensor) and a.shape[:1] == (1,) else a for a in arguments)
    with torch.no_grad():
        try:
            both, *_ = _record(model, torch.cat((image, 1 - image)), twice)
        except ImagesNotTakenError:  # the model takes one image at a time
            return
    for index in folded:
        one, two = calls[index].query[0], both[index].query[0] if index < len(both) else None
        if two is None or one.shape != two.shape or (one - two).norm() > SAME_QUERY * one.norm():
            raise UnsupportedModelError(
                f"{named(calls[index].name)} of {type(model).__name__} folds its heads into the batch, but the heads "
                "of an image are not adjacent, so they cannot be told apart. Fold as (batch · heads), or call "
                "scaled_dot_product_attention with (batch, heads, tokens, width)."
            )


def _check_cuts(model: nn.Module, leaf: Tensor, output: Tensor, watch: CutWatch, rerun: Rerun) -> None:
    """Raise UnsupportedModelError if the output depends on the image along a path that has no gradient.

    `rerun` runs the model again, given a watch and which of its cuts to disturb, if any.
    """
    name = _cut(leaf, output, watch, rerun)
    # A first pass may compute what later ones reuse (a teacher probes itself): only the second is repeated exactly.
    if name is not None and (name := _cut(leaf, output, rerun()[1], rerun)) is not None:
        raise UnsupportedModelError(
            f"the output of {type(model).__name__} depends on the image along a path where the gradient is cut: "
            f"{f'`{name}`' if name else 'the model'} uses `detach` or `torch.no_grad` in its forward pass. Remove it."
        )


def _cut(leaf: Tensor, output: Tensor, watch: CutWatch, rerun: Rerun) -> str | None:
    """Return the name of a module whose cut changes the output; None if no cut does."""
    reached = ancestors([node for _, node in watch.found], {node_of(leaf): 1})
    of_image = [index for index, (_, node) in enumerate(watch.found) if reached[node]]

    def matter(some: Collection[int]) -> bool:
        return not (rerun(watch, some)[0] - output).norm() <= SAME * output.norm()

    if not of_image or not matter(of_image):
        return None
    return watch.found[next((index for index in of_image if matter([index])), of_image[0])][0]


def run_model(model: nn.Module, image: Tensor, arguments: tuple[Any, ...]) -> Any:
    """Run the model on an image that is not a leaf, since a model may write to it.

    Raises:
        ImagesNotTakenError: the model does not take such images.
    """
    try:
        return model(image, *arguments)
    except (UnsupportedModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise anything for images that they do not take
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
        shape = " x ".join(map(str, image.shape[1:]))
        raise ImagesNotTakenError(
            f"`inputs` must be images that {type(model).__name__} takes, got {shape} "
            f"{str(image.dtype).removeprefix('torch.')} on {image.device}, for which it fails with "
            f"{type(error).__name__}: {reason}. Resize or convert the images, or build the model for them. If it "
            "needs other inputs, pass those as `additional_forward_args`, or explain its image tower alone."
        ) from error
