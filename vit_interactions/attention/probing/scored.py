"""Probe what one score reads, where a model returns several tensors or reads its numbers in several ways.

The score's gradient at the output of a random image tells which numbers it is made of. So a score is known by these
numbers, whatever function computes it, and each kind of score is probed once.
"""

import copy
import hashlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.examine import Probe
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.probe import Found, attempt, found_or_raise, probe
from vit_interactions.attention.probing.outputs import tensors_of
from vit_interactions.attention.probing.probe_pass import on_random_image, probe_pass, run_model
from vit_interactions.attention.probing.request import ProbeRequest, as_arguments, cached, probe_request

Score = Callable[[Any], Tensor]
SCORES = 256  # probes of one model's scores that are remembered
_outputs: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()
_scores: weakref.WeakKeyDictionary[nn.Module, dict[Any, Found]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Scored:
    """The probe of a model for a score.

    Attributes:
        probe: what was observed.
        request: the model and its images; None where all numbers of its output are read alike.
        numbers: which numbers of the output the score of each image is made of, and how they are weighed where that
            gives several tokens their shares.
    """

    probe: Probe
    request: ProbeRequest | None = None
    numbers: frozenset[bytes] = frozenset()

    def check(self, output: Any, score: Score, additional_forward_args: Any) -> None:
        """Raise UnsupportedModelError if the score of the images is read in another way than that of a random image.

        Args:
            output: of the pass that is explained.
            score: as of `probe_score`.
            additional_forward_args: likewise.
        """
        if self.request is None:
            return
        parts = _parts(output, score, self.request.batch)
        if _numbers(parts, self.probe) == self.numbers:
            return
        found = _common(self.request, additional_forward_args, parts)
        if not _is_same(found, self.probe):
            raise UnsupportedModelError(
                "`target` must take the same part of the output for every image, got one whose part for these images "
                f"comes from other tokens ({found}) than that for a random image ({self.probe}). Give the class as an "
                "index, or a function that always takes the same part."
            )


def probe_score(model: nn.Module, inputs: Tensor, additional_forward_args: Any, score: Score | None) -> Scored:
    """Observe what a model does with an image for a score of its output.

    Args:
        model: an unwrapped model.
        inputs: (batch, channels, height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.
        score: computes (batch,) from the model's output; None: the main tensor of the output.

    Raises:
        UnsupportedModelError: attention that cannot be explained, or scores of images that are read in several ways.
        ValueError: as of `probe`.
    """
    if score is None:
        return Scored(probe(model, inputs, additional_forward_args))
    try:
        refusal = None
        found = probe(model, inputs, additional_forward_args)
        if found.alike or found.unobserved:
            return Scored(found)
    except UnsupportedModelError as error:  # of the main tensor; another one may be read otherwise
        refusal = error
    request = probe_request(model, inputs, additional_forward_args)
    output = cached(_outputs, request, lambda: _random_output(request, additional_forward_args))
    if refusal is not None and len(tensors_of(output)) < 2:
        raise refusal
    try:
        parts = _parts(output, score, request.batch)
    except Exception:  # a function made for the given images only, or a fault of its own, which shows here again
        with torch.no_grad(), evaluation_mode(model) as own:
            output = own(inputs.clone(), *as_arguments(additional_forward_args))
        parts = _parts(output, score, request.batch)
    found = _common(request, additional_forward_args, parts)
    return Scored(found, request, _numbers(parts, found))


def _random_output(request: ProbeRequest, additional_forward_args: Any) -> Any:
    """Return what a model answers to a random image, its tensors outside the graph."""

    def run(image: Tensor, arguments: tuple[Any, ...]) -> Any:
        with evaluation_mode(request.model) as own, torch.inference_mode(False), torch.no_grad():
            return run_model(own, image.clone(), arguments)

    return on_random_image(request, additional_forward_args, run)[0]


def _parts(output: Any, score: Score, batch: int) -> list[list[Tensor]]:
    """Compute the gradient of each image's score at each tensor of the output.

    Returns:
        For each tensor, a gradient (1, ...) per image; of a tensor without an axis of images the same for all.

    Raises:
        UnsupportedModelError: a score without a gradient at any tensor of the output.
    """
    tensors = tensors_of(output)
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [_of_batch(tensor, batch).detach().clone().requires_grad_() for tensor in tensors]
        # The memo makes the copy hold the leaves in the place of the tensors.
        copied = copy.deepcopy(output, {id(tensor): leaf for tensor, leaf in zip(tensors, leaves, strict=True)})
        scores = score(copied).sum()
        gradients: Sequence[Tensor] = (
            torch.autograd.grad(scores, leaves, allow_unused=True, materialize_grads=True)
            if scores.requires_grad
            else []
        )
    if not any(gradient.any() for gradient in gradients):
        raise UnsupportedModelError(
            "`target` must be differentiable by the model's output, which holds several tensors or numbers that are "
            "read from different tokens: what it reads cannot be observed otherwise."
        )
    return [
        [gradient[i : i + 1] for i in range(batch)] if gradient.shape[:1] == (batch,) else [gradient] * batch
        for gradient in gradients
    ]


def _of_batch(tensor: Tensor, batch: int) -> Tensor:
    return tensor.expand(batch, *tensor.shape[1:]) if tensor.shape[:1] == (1,) else tensor


def _numbers(parts: list[list[Tensor]], found: Probe) -> frozenset[bytes]:
    """Identify the numbers of the output that the scores are made of, in one digest per kind of score."""
    shared = sum(share > 0 for share in found.layout.shares or ()) > 1
    return frozenset(
        _digest(image if shared else [part.ne(0) for part in image]) for image in zip(*parts, strict=True)
    )


def _is_same(one: Probe, other: Probe) -> bool:
    """Check whether two scores are read in the same way."""
    layout = replace(one.layout, shares=other.layout.shares)
    first, second = (torch.tensor(probe.layout.shares or ()) for probe in (one, other))
    steady = first.shape == second.shape and torch.allclose(first, second, rtol=1e-2, atol=1e-5)
    return (layout, one.structure) == (other.layout, other.structure) and steady


def _digest(tensors: Sequence[Tensor]) -> bytes:
    found = hashlib.blake2b()
    for tensor in tensors:
        found.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return found.digest()


def _common(request: ProbeRequest, additional_forward_args: Any, parts: list[list[Tensor]]) -> Probe:
    """Probe the scores of all images, which must be read in one way.

    Raises:
        UnsupportedModelError: they are not.
    """
    kinds = {_digest(image): image for image in zip(*parts, strict=True)}
    found = [_probe(request, additional_forward_args, key, image) for key, image in kinds.items()]
    for other in found[1:]:
        if not _is_same(other, found[0]):
            raise UnsupportedModelError(
                f"`target` must take parts of the output that come from the same tokens for all images of a batch, got "
                f"{found[0]} and {other}. Explain these images one by one."
            )
    return found[0]


def _probe(request: ProbeRequest, additional_forward_args: Any, key: bytes, parts: Sequence[Tensor]) -> Probe:
    """Probe one score: that of its whole tensor, if it is of one whose numbers are read alike."""

    def look(key: Any, pick: Callable[[Any], Tensor]) -> Found:
        return cached(
            _scores,
            replace(request, key=(request.key, key)),
            lambda: attempt(lambda: probe_pass(request, additional_forward_args, pick)),
            SCORES,
        )

    def weighted(output: Any) -> Tensor:
        total = torch.zeros(1)
        for tensor, part in zip(tensors_of(output), parts, strict=True):
            # Numbers are picked, as a product of whole tensors would itself be one of all tokens.
            picked = part.flatten().nonzero().flatten()
            one = tensor[:1] if part.shape[:1] == (1,) else tensor
            total = total.to(one) + (one.flatten()[picked] * part.flatten()[picked]).sum()
        return total

    touched = [place for place, part in enumerate(parts) if part.any()]
    if len(touched) == 1:
        whole = look(touched[0], lambda output: tensors_of(output)[touched[0]])
        if isinstance(whole, Probe) and whole.alike:
            return found_or_raise(request, whole)
    return found_or_raise(request, look(key, weighted))
