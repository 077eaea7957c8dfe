"""Read a model's attention from the calls it makes of `torch.nn.functional.scaled_dot_product_attention`.

At that call, query and key already include normalization and rotary embedding, and position biases and masks are in
`attn_mask`, whoever wrote the model. A `TorchFunctionMode` around the model's own forward sees the call, with fused
kernels left on and nothing attached to the model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.errors import UnsupportedModelError, named
from vit_interactions.attention.explicit import SOFTMAXES, SoftmaxWatch
from vit_interactions.attention.frames import running_objects
from vit_interactions.attention.isolation import Isolation
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.multihead import attend
from vit_interactions.attention.readable import check_unscripted
from vit_interactions.attention.sdpa import SDPA, read_sdpa, read_window_free, split_heads
from vit_interactions.functional.attention import BlockIndex, attention_gradient, attention_rows
from vit_interactions.functional.window_free import window_free_attention


@dataclass(frozen=True, eq=False)
class AttentionCall(SDPA):
    """The attention of one layer, which computes the probabilities and their gradient on demand.

    It has all arguments of scaled dot-product attention: `query`, `key`, `value`, `mask`, `dropout`, `is_causal` and
    `scale`.

    Attributes:
        name: name of the module that made the call, as in `model.named_modules()`.
        outputs: z of each call that computed heads of the layer, in the model's graph.
        order: (tokens,) the model's index of each token, if the tokens here are in another order.
    """

    name: str
    outputs: tuple[Tensor, ...]
    order: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """Z (batch, heads, queries, width)."""
        return self.join(self.outputs)

    @property
    def is_pooling(self) -> bool:
        """Return whether the queries are not the tokens, as in an attention-pooling head."""
        return self.query.shape[-2] != self.key.shape[-2]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join `outputs`, or their gradients, to (batch, heads, queries, width)."""
        if len(parts) == 1:
            whole = parts[0].reshape(*self.query.shape[:-1], -1)
        else:
            batch, _, queries, _ = self.query.shape
            whole = torch.cat([part.reshape(batch, -1, queries, part.shape[-1]) for part in parts], 1)
        return whole if self.order is None else whole[:, :, self.order]

    @torch.no_grad()
    def attention_grad(self, output_grad: Tensor) -> Tensor:
        """Compute the gradient at the attention (batch, heads, queries, keys) from the one at `output`.

        Args:
            output_grad: (batch, heads, queries, width), the gradient of a score at z; see
                `AttentionRecord.output_grads`.

        Raises:
            RuntimeError: the call used dropout, so the values were not multiplied by the attention itself.
        """
        if self.dropout:
            raise RuntimeError(
                f"`{self.name}` applied dropout {self.dropout} to its attention, so the gradient at the "
                "attention is not defined; call `model.eval()` before recording."
            )
        return attention_gradient(output_grad, self.value)

    def detached(self) -> "AttentionCall":
        """Return the same call outside the graph."""
        parts = {part: getattr(self, part).detach() for part in ("query", "key", "value")}
        return replace(self, **parts, outputs=tuple(output.detach() for output in self.outputs))

    def blocks(self, prefix: int = 0) -> Iterator[tuple[BlockIndex, Tensor]]:
        """Yield the attention among patches block by block, without those of prefix tokens; see `rows`."""
        return ((index, rows[..., prefix:]) for index, rows in self.rows(prefix))

    def rows(self, prefix: int = 0) -> Iterator[tuple[BlockIndex, Tensor]]:
        """Yield the attention of the patches to all tokens by blocks; see `functional.attention.attention_rows`."""
        return attention_rows(
            self.query.detach(),
            self.key.detach(),
            None if self.mask is None else self.mask.detach(),
            prefix=prefix,
            **self.options,
        )


class AttentionRecord:
    """The attention calls of a forward pass, recorded by `record_attention`.

    Attributes:
        calls: the self-attention calls of the layers, in order.
        pool_calls: the calls of an attention-pooling head.
        seen: number of self-attention calls, including those that were not kept.
        image_size: (height, width) of the input; None before the model has run.
        images: number of images in the input; None before the model has run.
        device: device of the attention.
    """

    def __init__(self, model: nn.Module, layout_of: Callable[[nn.Module, tuple[int, int]], TokenLayout]) -> None:
        """Create an empty record; `layout_of` finds the layout of a model for an image size."""
        self.calls: list[AttentionCall] = []
        self.pool_calls: list[AttentionCall] = []
        self.seen = 0
        self.image_size: tuple[int, int] | None = None
        self.images: int | None = None
        self.device = torch.device("cpu")
        self._model, self._layout_of = model, layout_of
        self.softmaxes = SoftmaxWatch()

    @property
    def layout(self) -> TokenLayout:
        """Return the token layout of the recorded image; see `token_layout`.

        Raises:
            RuntimeError: no forward pass has been recorded.
            UnsupportedModelError: the patches cannot be placed.
        """
        if self.image_size is None:
            raise RuntimeError("no forward pass has been recorded: call the model inside the `with` block.")
        layout = self._layout_of(self._model, self.image_size)
        tokens = self.calls[0].query.shape[-2] if self.calls else layout.tokens
        if tokens != layout.tokens:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} attends among {tokens} tokens, but an image of {self.image_size} has "
                f"{layout.tokens}: it drops, merges or adds tokens, so their positions are unknown."
            )
        return layout

    def attention(self, layer: int) -> Tensor:
        """Compute one layer's attention (batch, heads, tokens, tokens), at least in float32."""
        return self._call(layer).attention()

    def attention_grad(self, layer: int, score: Tensor) -> Tensor:
        """Compute the exact gradient of a score at one layer's attention (batch, heads, tokens, tokens).

        For several layers, `output_grads` and `AttentionCall.attention_grad` need only one backward pass.

        Args:
            layer: index into `calls`.
            score: (batch,) or scalar computed from the recorded output; summed over the batch.
        """
        call = self._call(layer)
        return call.attention_grad(output_gradients(self._model, score, [call])[0])

    def output_grads(self, score: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients of a score at the outputs z of all layers; see `output_gradients`."""
        return output_gradients(self._model, score, self.calls)

    def _call(self, layer: int) -> AttentionCall:
        if not -len(self.calls) <= layer < len(self.calls):
            raise IndexError(f"`layer` must lie in [{-len(self.calls)}, {len(self.calls) - 1}], got {layer}.")
        return self.calls[layer]

    def take(self, call: AttentionCall) -> None:
        """Append a call to those of the layers or of the pooling head."""
        self.seen += not call.is_pooling
        (self.pool_calls if call.is_pooling else self.calls).append(call)

    def check_read(self) -> None:
        """Raise UnsupportedModelError if some of the model's attention could not be read: a part would mislead."""
        if self.softmaxes.unread:
            raise UnsupportedModelError(
                f"{named(self.softmaxes.unread[0])} computes its attention by a softmax in a form that cannot be read. "
                "A softmax over the keys, with one row per token, must multiply the values unchanged. Talking heads, "
                "and attention that is scaled, transposed, windowed, pooled or over channels (CaiT, Swin, MViT, XCiT, "
                "...), are not supported. Use a ViT in which every patch attends to every patch."
            )


def whole_layer(calls: Sequence[AttentionCall], order: Tensor | None) -> AttentionCall:
    """Join calls that each computed some heads of a layer, and reorder its tokens by `order`, if given."""
    first = calls[0]
    if len(calls) == 1 and order is None:
        return first
    order = None if order is None else order.to(first.query.device)

    def join(parts: Sequence[Tensor], *axes: int) -> Tensor:
        whole = torch.cat(list(parts), 1)
        for axis in axes:
            if order is not None and whole.shape[axis] > 1:
                whole = whole.index_select(axis, order)
        return whole

    def join_pairs(parts: Sequence[Tensor | None]) -> Tensor | None:
        pairs = zip(parts, calls, strict=True)
        given = [part.expand(*call.query.shape[:3], -1) for part, call in pairs if part is not None]
        return join(given, 2, 3) if given else None

    return replace(
        first,
        query=join([call.query for call in calls], 2),
        key=join([call.key for call in calls], 2),
        value=join([call.value for call in calls], 2),
        mask=join_pairs([call.mask for call in calls]),
        window=join_pairs([call.window for call in calls]),
        outputs=tuple(output for call in calls for output in call.outputs),
        order=order,
    )


def ordered_keys(call: AttentionCall, layout: TokenLayout) -> AttentionCall:
    """Arrange the keys of a pooling head's call, all tokens or the patches only, in the order of the layout."""
    count = call.key.shape[-2]
    if layout.order is None or count not in (layout.tokens, layout.patches):
        return call
    places = layout.places(count).to(call.key.device)
    mask = call.mask
    return replace(
        call,
        key=call.key.index_select(-2, places),
        value=call.value.index_select(-2, places),
        mask=mask if mask is None or mask.shape[-1] == 1 else mask.index_select(-1, places),
    )


def output_gradients(
    model: nn.Module, score: Tensor, calls: Sequence[AttentionCall], *, keep_graph: bool = True
) -> tuple[Tensor, ...]:
    """Compute the gradient of a score at the output z of each call, (batch, heads, queries, width), in one pass.

    No `.grad` is written. The gradient at a call that the score does not depend on is 0.

    Args:
        model: the model, for messages.
        score: (batch,) or scalar, computed from the output; summed.
        calls: the calls, recorded with a graph.
        keep_graph: whether to keep the graph for further scores.

    Raises:
        RuntimeError: the forward pass was recorded without a graph.
        UnsupportedModelError: a score without a gradient.
    """
    outputs = [output for call in calls for output in call.outputs]
    if not torch.is_tensor(score) or not any(output.requires_grad for output in outputs):
        raise RuntimeError(
            "the forward pass was recorded without a graph: enable gradients and let the input (or the "
            "parameters) require them."
        )
    check_differentiable(model, score.sum())
    gradients = iter(
        torch.autograd.grad(
            score.sum(), outputs, retain_graph=keep_graph, allow_unused=True, materialize_grads=True
        )
    )
    return tuple(call.join(list(islice(gradients, len(call.outputs)))) for call in calls)


def check_finite(names: list[str], finite: list[Tensor]) -> None:
    """Raise ValueError if a layer's attention is not finite, synchronizing once with the device."""
    found = torch.stack(finite).tolist() if finite else []
    if not all(found):
        layer = found.index(False)
        raise ValueError(
            f"the attention of layer {layer} (`{names[layer]}`) is not finite: `inputs` or the model's weights hold "
            "NaN or infinite values, or half precision overflowed."
        )


def intercept(
    record: AttentionRecord, model: nn.Module, on_call: Callable[[AttentionCall], None]
) -> "Interception":
    """Intercept the calls of a model from `evaluated`, isolated from other threads; no scripted models."""
    check_unscripted(model)
    return Interception(record, model, on_call, Isolation(model))


class Interception(TorchFunctionMode):
    """A mode that passes each attention call of a model's modules to `on_call`."""

    def __init__(
        self,
        record: AttentionRecord,
        model: nn.Module,
        on_call: Callable[[AttentionCall], None],
        run: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any] | None = None,
    ) -> None:
        """Create the mode; `run` runs a function of torch with its arguments, by default as it is."""
        super().__init__()
        self.run = run or (lambda func, args, kwargs: func(*args, **kwargs))
        self.record = record
        self.on_call = on_call
        self.modules = {id(module): (name, module) for name, module in model.named_modules()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        opaque = self.running() if func is F.multi_head_attention_forward else None
        result: Any = attend(self, opaque[0], args, kwargs) if opaque else self.run(func, args, kwargs)
        softmaxes = self.record.softmaxes
        if func is F.scaled_dot_product_attention:
            self._attention(result, read_sdpa(*args, **kwargs))
        elif func is window_free_attention:
            self._attention(result.output, read_window_free(result, *args, **kwargs))
        elif func in SOFTMAXES and (caller := self.running()):
            softmaxes.follow(caller[0], args, kwargs, result)
        elif softmaxes.watching and (caller := self.running()):
            given = softmaxes.read(caller[0], func, args, result)
            if given is not None:
                self._attention(result, given)
        if self.record.image_size is None and args and _is_image(args[0]) and self.running():
            self.record.image_size = (args[0].shape[-2], args[0].shape[-1])
            self.record.images = args[0].shape[0]
        return result

    def _attention(self, output: Tensor, given: SDPA) -> None:
        caller = self.running()
        if caller is None:
            return
        name, module = caller
        self.record.device = given.query.device
        if given.query.ndim == 3:
            given = split_heads(module, name, given, self.record.images)
        call = AttentionCall(**vars(given), name=name, outputs=(output,))
        with torch.no_grad():
            self.on_call(call)

    def running(self) -> tuple[str, nn.Module] | None:
        """Find the running module of the model: the `self` of the innermost frame that has one."""
        others: dict[int, Any] = {}
        for owner in running_objects():
            found = self.modules.get(id(owner))
            if found is not None:
                return found
            if isinstance(owner, Interception):
                others |= owner.modules
            elif id(owner) in others:
                break  # another recorded model that runs inside this one: its teacher
        return None


def _is_image(value: Any) -> bool:
    """Check whether a value could be the model's input: the first 4-D tensor in use that is not a weight."""
    floating = isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
    return floating and not isinstance(value, nn.Parameter)
