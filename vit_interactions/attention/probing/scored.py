"""Probe a single score of a model that returns several tensors, or reads its numbers from different tokens.

The score's gradient at the output for a random image shows which numbers it depends on. These numbers identify the
score, whatever function computes it, so each kind of score is probed once.
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

ScoreFunction = Callable[[Any], Tensor]
SCORES = 256  # cached probes per model
_outputs: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()
_scores: weakref.WeakKeyDictionary[nn.Module, dict[Any, Found]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Scored:
    """The probe of a model for a score.

    Attributes:
        probe: what was observed.
        request: the model and its images; None if all numbers of its output are read alike.
        numbers: digests of the numbers of the output that the score of each image depends on, with their weights if
            these decide the shares of several tokens.
    """

    probe: Probe
    request: ProbeRequest | None = None
    numbers: frozenset[bytes] = frozenset()

    def check(self, output: Any, score: ScoreFunction, additional_forward_args: Any) -> None:
        """Raise UnsupportedModelError if the images' score in `output` is read differently than a random image's."""
        if self.request is None:
            return
        parts = _parts(output, score, self.request.batch)
        if _numbers(parts, self.probe) == self.numbers:
            return
        found = _common(self.request, additional_forward_args, parts)
        if not (found.agrees(self.probe) and found.has_shares_of(self.probe)):
            raise UnsupportedModelError(
                "`target` must take the same part of the output for every image, got a part that reads different "
                f"tokens for these images ({found}) than for a random image ({self.probe}). Pass a class index, or a "
                "function that always takes the same part."
            )


def probe_score(
    model: nn.Module, inputs: Tensor, additional_forward_args: Any, score: ScoreFunction | None
) -> Scored:
    """Observe what a model does with an image for a score of its output.

    `score` computes (batch,) from the model's output; by default, the main tensor of the output is traced. See `probe`
    for the other arguments.

    Raises:
        UnsupportedModelError: attention that cannot be explained, or scores that differ in how they are read.
        ValueError: images that the model does not take.
    """
    if score is None:
        return Scored(probe(model, inputs, additional_forward_args))
    try:
        failure = None
        found = probe(model, inputs, additional_forward_args)
        if found.alike or found.unobserved:
            return Scored(found)
    except UnsupportedModelError as error:  # for the main tensor; another one may be supported
        failure = error
    request = probe_request(model, inputs, additional_forward_args)
    output = cached(_outputs, request, lambda: _random_output(request, additional_forward_args))
    if failure is not None and len(tensors_of(output)) < 2:
        raise failure
    try:
        parts = _parts(output, score, request.batch)
    except Exception:  # a function for the given images only; or a real error, which is raised again below
        with torch.no_grad(), evaluation_mode(model) as own:
            output = own(inputs.clone(), *as_arguments(additional_forward_args))
        parts = _parts(output, score, request.batch)
    found = _common(request, additional_forward_args, parts)
    return Scored(found, request, _numbers(parts, found))


def _random_output(request: ProbeRequest, additional_forward_args: Any) -> Any:
    """Return a model's output for a random image, outside the graph."""

    def run(image: Tensor, arguments: tuple[Any, ...]) -> Any:
        with evaluation_mode(request.model) as own, torch.inference_mode(False), torch.no_grad():
            return run_model(own, image.clone(), arguments)

    return on_random_image(request, additional_forward_args, run)


def _parts(output: Any, score: ScoreFunction, batch: int) -> list[list[Tensor]]:
    """Compute the gradient of each image's score at each tensor of the output.

    Returns:
        For each tensor, a gradient (1, ...) per image; the same for all if the tensor has no batch axis.

    Raises:
        UnsupportedModelError: a score without a gradient at any tensor of the output.
    """
    tensors = tensors_of(output)
    with torch.inference_mode(False), torch.enable_grad():
        images = (t.expand(batch, *t.shape[1:]) if t.shape[:1] == (1,) else t for t in tensors)
        leaves = [tensor.detach().clone().requires_grad_() for tensor in images]
        # The memo makes the copy contain the leaves instead of the tensors.
        copied = copy.deepcopy(output, {id(tensor): leaf for tensor, leaf in zip(tensors, leaves, strict=True)})
        scores = score(copied).sum()
        gradients: Sequence[Tensor] = (
            torch.autograd.grad(scores, leaves, allow_unused=True, materialize_grads=True)
            if scores.requires_grad
            else []
        )
    if not any(gradient.any() for gradient in gradients):
        raise UnsupportedModelError(
            "`target` must be differentiable with respect to the model's output, got one without a gradient. The "
            "output has several tensors, or parts that read different tokens, and only the gradient shows which of "
            "them `target` uses."
        )
    return [
        [gradient[i : i + 1] for i in range(batch)] if gradient.shape[:1] == (batch,) else [gradient] * batch
        for gradient in gradients
    ]


def _numbers(parts: list[list[Tensor]], found: Probe) -> frozenset[bytes]:
    """Digest the numbers of the output that the scores depend on, once per kind of score."""
    shared = sum(share > 0 for share in found.layout.shares or ()) > 1
    return frozenset(
        _digest(image if shared else [part.ne(0) for part in image]) for image in zip(*parts, strict=True)
    )


def _digest(tensors: Sequence[Tensor]) -> bytes:
    found = hashlib.blake2b()
    for tensor in tensors:
        found.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return found.digest()


def _common(request: ProbeRequest, additional_forward_args: Any, parts: list[list[Tensor]]) -> Probe:
    """Probe the scores of all images; raise UnsupportedModelError if they are read in different ways."""
    kinds = {_digest(image): image for image in zip(*parts, strict=True)}
    found = [_probe(request, additional_forward_args, key, image) for key, image in kinds.items()]
    for other in found[1:]:
        if not (other.agrees(found[0]) and other.has_shares_of(found[0])):
            raise UnsupportedModelError(
                f"`target` must take parts of the output that come from the same tokens for all images of a batch, got "
                f"{found[0]} and {other}. Explain these images one at a time."
            )
    return found[0]


def _probe(request: ProbeRequest, additional_forward_args: Any, key: bytes, parts: Sequence[Tensor]) -> Probe:
    """Probe one score, or its whole tensor if all numbers of that are read alike."""

    def probed(key: Any, pick: Callable[[Any], Tensor]) -> Found:
        return cached(
            _scores,
            replace(request, key=(request.key, key)),
            lambda: attempt(lambda: probe_pass(request, additional_forward_args, pick)),
            SCORES,
        )

    def weighted(output: Any) -> Tensor:
        total = torch.zeros(1)
        for tensor, part in zip(tensors_of(output), parts, strict=True):
            # Single numbers: a product of whole tensors could be taken for the tokens.
            picked = part.flatten().nonzero().flatten()
            one = tensor[:1] if part.shape[:1] == (1,) else tensor
            total = total.to(one) + (one.flatten()[picked] * part.flatten()[picked]).sum()
        return total

    touched = [place for place, part in enumerate(parts) if part.any()]
    if len(touched) == 1:
        whole = probed(touched[0], lambda output: tensors_of(output)[touched[0]])
        if isinstance(whole, Probe) and whole.alike:
            return found_or_raise(request, whole)
    return found_or_raise(request, probed(key, weighted))
