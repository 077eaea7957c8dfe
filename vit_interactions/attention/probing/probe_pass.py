"""Run a model on a random image and read what it does from the graph of that pass."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from vit_interactions.attention.declared import declared_layout, stated_layout
from vit_interactions.attention.errors import (
    ImagesNotTakenError,
    UnobservableModelError,
    UnsupportedModelError,
)
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.examine import Probe, examine
from vit_interactions.attention.folded import check_folds, folded
from vit_interactions.attention.graph import ancestors, node_of, noise
from vit_interactions.attention.isolation import Isolation
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.cuts import CutWatch
from vit_interactions.attention.probing.outputs import main_output, tensors_of
from vit_interactions.attention.probing.request import ProbeRequest, as_arguments
from vit_interactions.attention.record import AttentionCall, AttentionRecord, intercept

SAME = 1e-4  # relative difference up to which an answer is the same: what a cut changes is more, rounding is less
Pick = Callable[[Any], Tensor]
SEEDS = 8  # further passes of a model that draws random numbers: a coin that falls the same way each time is rare


def probe_pass(request: ProbeRequest, additional_forward_args: Any, pick: Pick | None = None) -> Probe:
    """Probe with one image, or with as many as were given where the model takes no other number.

    Args:
        request: the model and its images.
        additional_forward_args: as they were given.
        pick: computes what is asked about from the model's output; None: its main tensor, and whether the others are
            read alike.

    Raises:
        UnsupportedModelError: a model that cannot be explained by its attention.
        ImagesNotTakenError: images that the model does not take.
    """
    found, image, arguments = on_random_image(
        request, additional_forward_args, lambda images, given: _probe(request, images, given, pick=pick)
    )
    if found.drew:
        for seed in range(1, 1 + SEEDS):
            _check_same(request, found.probe, image, arguments, seed, pick)
    return _with_steady_shares(request, found.probe, image, arguments, pick)


def on_random_image(
    request: ProbeRequest, additional_forward_args: Any, run: Callable[[Tensor, tuple[Any, ...]], Any]
) -> Any:
    """Return run(images, arguments) for one random image, or as many as were given; and the two."""
    try:
        return run(request.image, request.arguments), request.image, request.arguments
    except ImagesNotTakenError as error:
        if request.guessed:
            raise ImagesNotTakenError(f"{error} {request.guessed}") from error
        if request.batch == 1:
            raise
        images = request.image.repeat(request.batch, 1, 1, 1)
        arguments = as_arguments(additional_forward_args)
        return run(images, arguments), images, arguments


@dataclass(frozen=True)
class _Pass:
    """The result of one pass, and whether the model drew random numbers in it."""

    probe: Probe
    drew: bool


def _check_same(
    request: ProbeRequest, found: Probe, image: Tensor, arguments: tuple[Any, ...], seed: int, pick: Pick | None
) -> None:
    """Raise UnsupportedModelError if a pass with other random numbers shows other places or layers."""
    try:
        again = _probe(request, image, arguments, seed, pick).probe
        same = replace(again.layout, shares=found.layout.shares) == found.layout
        same = same and (again.calls, again.structure) == (found.calls, found.structure)
    except UnsupportedModelError:
        same = False
    if not same:
        raise UnsupportedModelError(
            f"{type(request.root).__name__} draws random numbers in evaluation mode, and they change where its patches "
            "are or what it does with them (tokens in random order or dropped, a random flip or crop), so what one "
            "pass shows does not hold for the next. Turn that off, or give the model its random numbers as an "
            "argument, such as `noise` of ViTMAE."
        )


def _with_steady_shares(
    request: ProbeRequest, found: Probe, image: Tensor, arguments: tuple[Any, ...], pick: Pick | None
) -> Probe:
    """Drop shares of tokens that are others for another image, as of the largest patches."""
    if found.layout.shares is None:
        return found
    other = _probe(request, 1 - image, arguments, pick=pick).probe.layout
    if other.shares is not None and torch.allclose(
        torch.tensor(found.layout.shares), torch.tensor(other.shares), rtol=1e-2, atol=1e-5
    ):
        return found
    return replace(found, layout=replace(found.layout, shares=None))


def _probe(
    request: ProbeRequest,
    image: Tensor,
    arguments: tuple[Any, ...],
    seed: int | None = None,
    pick: Pick | None = None,
) -> _Pass:
    own = evaluated(request.model)
    before = _other_generators()
    answer_of = pick or main_output
    with differentiable(image) as leaf:
        calls, output, watch, drew = _record(own, leaf.clone(), arguments, seed)
        drew = drew or before != _other_generators()
        answer = answer_of(output)
        whole = None if pick is None else _sum_of(output)
        others = [] if pick else [t for t in tensors_of(output) if t is not answer and t.requires_grad]
        try:
            found = examine(own, leaf, calls, answer, not others, whole)
        except UnobservableModelError as error:
            return _Pass(_assumed(request, str(error)), drew)
        except (RuntimeError, NotImplementedError) as error:
            if "derivative" not in str(error) and "not implemented" not in str(error):
                raise
            return _Pass(_assumed(request, f"{str(error).splitlines()[0]}."), drew)
        _check_cuts(
            own, leaf, answer, watch, lambda *how: _pass_again(own, leaf, arguments, seed, answer_of, *how)
        )
    if folded(calls) and len(image) == 1:
        _check_folds(own, image, arguments, calls)
    return _Pass(found, drew)


def _sum_of(output: Any) -> Tensor:
    """Add up all numbers of an output that have a gradient, weighed at random."""
    parts = [(tensor * noise(tensor)).sum() for tensor in tensors_of(output) if tensor.requires_grad]
    return torch.stack([part.to(parts[0]) for part in parts]).sum()


def _assumed(request: ProbeRequest, reason: str) -> Probe:
    """Return the stated or declared layout of a model that cannot be observed.

    Raises:
        UnobservableModelError: neither.
    """
    size = request.shape[1:]
    layout: TokenLayout | None = stated_layout(request.root)
    try:
        return Probe(size, layout or declared_layout(request.model, size), None, None, reason)
    except UnsupportedModelError as error:
        raise UnobservableModelError(f"{reason} {error}") from error


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
    """Run the model and record its attention calls, its output and its cuts.

    Args:
        model: from `evaluated`.
        image: (batch, channels, height, width).
        arguments: further arguments.
        seed: of the random numbers that the model draws; None: those that it would draw anyway.
        before: as of `CutWatch`.
        disturbed: as of `CutWatch`.
    """
    record = AttentionRecord(model, declared_layout)
    calls: list[AttentionCall] = []
    with intercept(record, model, calls.append) as mode:
        unnoticed = Isolation(model, seed)
        mode.run = watch = CutWatch(unnoticed, mode.running, before, disturbed)
        output = run_model(model, image, arguments)
    record.check_read()
    return calls, output, watch, unnoticed.drew


def _check_folds(
    model: nn.Module, image: Tensor, arguments: tuple[Any, ...], calls: Sequence[AttentionCall]
) -> None:
    """Raise UnsupportedModelError if heads are folded into the batch so that those of two images mix."""
    twice = tuple(torch.cat((a, a)) if isinstance(a, Tensor) and a.shape[:1] == (1,) else a for a in arguments)
    with torch.no_grad():
        try:
            beside, *_ = _record(model, torch.cat((image, 1 - image)), twice)
        except ImagesNotTakenError:  # one image at a time
            return
    check_folds(type(model).__name__, calls, beside)


def _pass_again(
    model: nn.Module,
    leaf: Tensor,
    arguments: tuple[Any, ...],
    seed: int | None,
    answer_of: Callable[[Any], Tensor],
    *how: Any,
) -> tuple[Tensor, CutWatch]:
    """Run the model once more, disturbed as `_record` takes it; return the answer and what watched the pass."""
    _, output, watch, _ = _record(model, leaf.clone(), arguments, seed, *how)
    return answer_of(output), watch


def _check_cuts(
    model: nn.Module,
    leaf: Tensor,
    answer: Tensor,
    watch: CutWatch,
    run: Callable[..., tuple[Tensor, CutWatch]],
) -> None:
    """Raise UnsupportedModelError if the answer depends on the image by a way that the gradient does not take.

    Args:
        model: for the message.
        leaf: the image.
        answer: of the pass.
        watch: what watched it.
        run: runs the model again, with a watch and which of its findings to disturb, if any.
    """
    name = _cut(leaf, answer, watch, run)
    # A first pass may compute what later ones remember (a teacher probes itself): only the second is repeated exactly.
    if name is not None and (name := _cut(leaf, answer, run()[1], run)) is not None:
        raise UnsupportedModelError(
            f"the output of {type(model).__name__} depends on the image by a way on which the gradient is cut, by a "
            f"detach or `torch.no_grad` in the forward of {f'`{name}`' if name else 'the model'}, so that what the "
            "model does cannot be observed. Remove the cut."
        )


def _cut(leaf: Tensor, answer: Tensor, watch: CutWatch, run: Callable[..., tuple[Tensor, CutWatch]]) -> str | None:
    """Name the module of a cut that changes the answer; None where there is none."""
    reached = ancestors([node for _, node in watch.found], {node_of(leaf): 1})
    of_image = [index for index, (_, node) in enumerate(watch.found) if reached[node]]

    def matter(some: Collection[int]) -> bool:
        return not (run(watch, some)[0] - answer).norm() <= SAME * answer.norm()

    if not of_image or not matter(of_image):
        return None
    return watch.found[next((index for index in of_image if matter([index])), of_image[0])][0]


def run_model(model: nn.Module, image: Tensor, arguments: tuple[Any, ...]) -> Any:
    """Run the model on the random image, which is not a leaf: a model may write to it.

    Raises:
        ImagesNotTakenError: the model does not take such images.
    """
    try:
        return model(image, *arguments)
    except (UnsupportedModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise anything at images that they do not take
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
        shape = " x ".join(map(str, image.shape[1:]))
        raise ImagesNotTakenError(
            f"`inputs` must be images that {type(model).__name__} takes, got {shape} "
            f"{str(image.dtype).removeprefix('torch.')} on {image.device}, for which it fails with "
            f"{type(error).__name__}: {reason}. Resize or convert the images, or build the model for "
            "them. Where it lacks other inputs, give those as `additional_forward_args`, or explain its image tower "
            "alone."
        ) from error
