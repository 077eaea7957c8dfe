"""Run a model and pass its attention layer by layer, or raise: never a wrong map."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probe import token_layout
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.probing.scored import Scored, ScoreFunction, probe_score
from vit_interactions.attention.readable import readable
from vit_interactions.attention.record import (
    AttentionCall,
    AttentionRecord,
    Interception,
    check_finite,
    intercept,
    ordered_keys,
    output_gradients,
    whole_layer,
)
from vit_interactions.attention.unwrap import unwrap

OnLayer = Callable[[AttentionCall, TokenLayout], None]


@dataclass(frozen=True, eq=False)
class Observation:
    """The result of one forward pass.

    Attributes:
        output: what the model returned.
        layout: the layout of its tokens.
        record: the calls of a pooling head, and after a backward pass those of all layers, outside any graph.
    """

    output: Any
    layout: TokenLayout
    record: AttentionRecord

    def readout(self) -> Tensor:
        """Return each token's share in the model's output, (1 or batch, tokens) float32."""
        pool = self.record.pool_calls
        weights = self.layout.readout_weights(pool[-1].attention() if pool else None)
        return weights.to(self.record.device)


class LayerGradient(NamedTuple):
    """The detached attention call of one layer, and the gradient of the score at its output z, of z's shape."""

    call: AttentionCall
    output_gradient: Tensor

    def attention(self) -> Tensor:
        """Compute A (batch, heads, tokens, tokens), at least float32."""
        return self.call.attention()

    def gradient(self) -> Tensor:
        """Compute the exact gradient at A (batch, heads, tokens, tokens), at least float32."""
        return self.call.attention_grad(self.output_gradient)


@dataclass(frozen=True, eq=False)
class Backtrace(Observation):
    """The result of a forward and a backward pass.

    Attributes:
        gradients: the gradient at z (batch, heads, tokens, width) of each layer that the backward pass reached.
    """

    gradients: tuple[Tensor, ...]

    def layers(self) -> Iterator[LayerGradient]:
        """Yield the layers from the first that the backward pass reached to the last."""
        return reversed(list(self.layers_from_the_top()))

    def layers_from_the_top(self) -> Iterator[LayerGradient]:
        """Yield the layers from the last to the first that the backward pass reached."""
        return map(LayerGradient, reversed(self.record.calls), reversed(self.gradients))

    def readout(self) -> Tensor:
        """Return each token's share in the model's output, (batch, tokens), at least float32."""
        query = self.record.calls[0].query
        return super().readout().to(torch.promote_types(query.dtype, torch.float32)).expand(query.shape[0], -1)

    def readout_rows(self) -> slice:
        """Return the tokens that the output is read from: class token, class and distillation token, or patches."""
        fixed = {"token": slice(0, 1), "distilled": slice(0, 2), "token_avg": slice(None)}
        if self.layout.readout in fixed:
            return fixed[self.layout.readout]
        prefix_is_read = bool((self.readout()[:, : self.layout.prefix] > 0).any())
        return slice(0 if prefix_is_read else self.layout.prefix, None)


@contextlib.contextmanager
def record_attention(
    model: nn.Module, consume: Callable[[AttentionCall], None] | None = None
) -> Iterator[AttentionRecord]:
    """Record the attention of every forward pass of `model` inside the `with` block.

    The model runs as it is, fused kernels included. Inside the block, timm modules built with `fused_attn=False` use
    their fused path, activation checkpointing is off, and compiled parts run eagerly. All of this is restored, even
    after an exception. Other threads that run the model meanwhile see these changes; explainers make none. Call
    `model.eval()` first for the attention of evaluation.

    The record has one call per call of the model. Only explainers join heads that a model computes in several calls,
    and restore the order of tokens.

    Args:
        model: a model whose modules call `torch.nn.functional.scaled_dot_product_attention`, or multiply values by a
            softmax. Compiled models and (Distributed)DataParallel wrappers are unwrapped.
        consume: called with each self-attention call as it happens, which is then not kept, so that memory does not
            grow with the number of layers.

    Yields:
        The record, filled as the model runs.

    Raises:
        UnsupportedModelError: a scripted model, whose attention cannot be seen.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit").eval()
        >>> with record_attention(model) as record, torch.no_grad():
        ...     _ = model(torch.zeros(1, 3, 160, 160))
        >>> record.attention(0).shape, record.layout.grid
        (torch.Size([1, 2, 101, 101]), (10, 10))
    """
    inner = unwrap(model)
    record = AttentionRecord(inner, token_layout)

    def on_call(call: AttentionCall) -> None:
        if consume is None or call.is_pooling:
            record.take(call)
        else:
            record.seen += 1
            consume(call)

    with readable(model), Interception(record, inner, on_call):
        yield record


def observe(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    on_layer: OnLayer,
    score: ScoreFunction | None = None,
) -> Observation:
    """Run the model once without a graph, passing each layer's attention to `on_layer` as it happens.

    Args:
        model: an unwrapped model.
        inputs: (batch, channels, height, width).
        additional_forward_args: further positional arguments of the model; a tuple is spread.
        on_layer: called with the attention of every layer, which is not kept.
        score: picks (batch,) from the model's output; layers and layout are those that it is read from. Default: the
            main tensor of the output.

    Raises:
        UnsupportedModelError: attention that is not from every patch to every patch of one image.
        ValueError: inputs that the model does not take; attention that is not finite.
    """
    with torch.no_grad(), guarded(model, inputs, additional_forward_args, on_layer, score=score) as guard:
        output = guard.model(inputs, *as_arguments(additional_forward_args))
    guard.finish()
    if score is not None:
        guard.scored.check(output, score, additional_forward_args)
    return Observation(output, guard.layout, guard.record)


@contextlib.contextmanager
def guarded(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    on_layer: OnLayer,
    rules: contextlib.AbstractContextManager[Any] | None = None,
    score: ScoreFunction | None = None,
) -> Iterator["LayerGuard"]:
    """Record a model's layers, as the probe found them, passing each to `on_layer`.

    Runs the model under the mode `rules` if given, which also gets the calls found inside `nn.MultiheadAttention`; the
    probe runs without it. See `observe` for the other arguments.

    Yields:
        The guard; `guard.model` is the module to run. Call `guard.finish()` after the pass.
    """
    scored = probe_score(model, inputs, additional_forward_args, score)
    guard = LayerGuard(evaluated(model), scored, inputs.shape[0], on_layer)
    with rules or contextlib.nullcontext(), intercept(guard.record, guard.model, guard):
        yield guard


def observe_gradients(
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any,
    score: Callable[[Tensor], Tensor],
    rules: contextlib.AbstractContextManager[Any] | None = None,
    first: int = 0,
) -> Backtrace:
    """Run the model forward and backward once, without writing to any `.grad`.

    The sum of `score` (batch,) of the output is differentiated, down to the layer `first`, which counts from the end if
    negative, or to the last layer if there are fewer. See `observe` and `guarded` for the other arguments and for the
    errors.
    """
    calls: list[AttentionCall] = []
    with differentiable(inputs) as leaf:
        with guarded(
            model, inputs, additional_forward_args, lambda call, layout: calls.append(call), rules, score
        ) as guard:
            output = guard.model(leaf, *as_arguments(additional_forward_args))
        guard.finish()
        guard.scored.check(output, score, additional_forward_args)
        scores = score(output)
        check_differentiable(model, scores.sum(), leaf)
        first = min(first, len(calls) - 1)
        gradients = output_gradients(model, scores, calls[first:], keep_graph=False)
    guard.record.calls.extend(call.detached() for call in calls)
    return Backtrace(output, guard.layout, guard.record, gradients)


class LayerGuard:
    """A callback that assembles the calls of a pass into the layers that the probe found."""

    def __init__(self, model: nn.Module, scored: Scored, batch: int, on_layer: OnLayer) -> None:
        """Create the guard for the module that will run, and its probe."""
        seen = scored.probe
        self.scored = scored
        self.model, self.probe, self.layout, self.batch = model, seen, seen.layout, batch
        self.record = AttentionRecord(model, lambda *_: seen.layout)
        self.on_layer = on_layer
        self._order = None if seen.layout.order is None else torch.tensor(seen.layout.order)
        self._made = 0
        self._parts: list[AttentionCall] = []
        self._names: list[str] = []
        self._finite: list[Tensor] = []

    def __call__(self, call: AttentionCall) -> None:
        """Pass a layer to `on_layer` once all of its calls were made."""
        role = self.probe.role(self._made, call, self.batch)
        self._made += 1
        if role == "pool":
            self.record.pool_calls.append(ordered_keys(call, self.layout))
        elif role is not None:
            self._parts.append(call)
            if len(self._parts) == role:
                layer, self._parts = whole_layer(self._parts, self._order), []
                self._names.append(layer.name)
                self._finite.append(layer.output.isfinite().all())
                self.on_layer(layer, self.layout)

    def finish(self) -> None:
        """Raise UnsupportedModelError unless the pass made the same calls as the probe; ValueError if not finite."""
        self.record.check_read()
        self.record.seen = self._made - len(self.record.pool_calls)
        if self.probe.calls is not None and self._made != len(self.probe.calls):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} made {self._made} attention calls for this image, but "
                f"{len(self.probe.calls)} for a random one: its layers depend on the image (early exit, routing)."
            )
        check_finite(self._names, self._finite)
