"""Read a model's attention from the calls it makes of `torch.nn.functional.scaled_dot_product_attention`.

At that call query and key already carry normalisation and rotary embedding, and position biases and masks
arrive as `attn_mask`, whoever wrote the model. A `TorchFunctionMode` around the user's own forward sees it,
with the fused kernels left on and nothing attached to the model.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.borrow import Unnoticed
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout, find_patch_embedding, token_layout
from vit_interactions.attention.multihead import attend
from vit_interactions.attention.readable import check_unscripted, readable
from vit_interactions.attention.sdpa import SDPA, read_sdpa
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.attention.window_free import read_window_free
from vit_interactions.functional.attention import BlockIndex, attention_blocks, attention_gradient
from vit_interactions.functional.window_free import window_free_attention

_SOFTMAXES = (F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax)
_EMBEDDINGS = (torch.conv2d, F.linear)


@dataclass(frozen=True, eq=False)
class AttentionCall(SDPA):
    """One call of scaled dot-product attention, from which attention and its gradient come on demand.

    It has all that the call was given: `query`, `key`, `value`, `mask`, `dropout`, `is_causal` and `scale`.

    Attributes:
        name: the module that made the call, as `model.named_modules()` calls it.
        output: z (batch, heads, queries, width), as it goes on in the model's graph; (batch · heads, queries,
            width) where the model folds heads into the batch.
        place: which instruction of the module made the call.
    """

    name: str
    output: Tensor
    place: int

    @property
    def is_pooling(self) -> bool:
        """Whether the queries are not the tokens themselves, as in an attention-pooling head."""
        return self.query.shape[-2] != self.key.shape[-2]

    @torch.no_grad()
    def attention_grad(self, output_grad: Tensor) -> Tensor:
        """Compute the gradient at the attention (batch, heads, queries, keys) from that at `output`.

        Args:
            output_grad: the gradient of a score at z, as `AttentionRecord.output_grads` gives it.

        Raises:
            RuntimeError: the call used dropout, so that attention was not what multiplied the values.
        """
        if self.dropout:
            raise RuntimeError(
                f"`{self.name}` applied dropout {self.dropout} to its attention, so the gradient at the "
                "attention is not defined; call `model.eval()` before recording."
            )
        # The output is in the model's graph as the model has it, perhaps with heads folded into the batch.
        return attention_gradient(output_grad.reshape(*self.query.shape[:-1], -1), self.value)

    def detached(self) -> "AttentionCall":
        """Return the same call outside the graph, so that keeping it does not keep the graph."""
        parts = ("query", "key", "value", "output")
        return replace(self, **{part: getattr(self, part).detach() for part in parts})

    def blocks(self, prefix: int = 0) -> Iterator[tuple[BlockIndex, Tensor]]:
        """Yield the attention among patches block by block; see `functional.attention.attention_blocks`."""
        return attention_blocks(
            self.query.detach(),
            self.key.detach(),
            None if self.mask is None else self.mask.detach(),
            prefix=prefix,
            **self.options,
        )


class AttentionRecord:
    """What `record_attention` has seen of a forward pass.

    Attributes:
        calls: the self-attention calls of the layers, in order.
        pool_calls: the calls of an attention-pooling head.
        seen: how many calls of layers there were, those not kept included.
        embedding_runs: how often the patch embedding ran, once a forward pass.
        image_size: (height, width) of the input, None before the model has run.
        device: where the attention was computed.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start empty."""
        self.calls: list[AttentionCall] = []
        self.pool_calls: list[AttentionCall] = []
        self.seen = 0
        self.embedding_runs = 0
        self.image_size: tuple[int, int] | None = None
        self.device = torch.device("cpu")
        self._model = model
        self._manual_softmax: list[str] = []

    @property
    def layout(self) -> TokenLayout:
        """Where the recorded image's patches are in the token sequence.

        Raises:
            RuntimeError: no forward pass has been recorded.
            UnsupportedModelError: the model does not say where its patches are.
        """
        if self.image_size is None:
            raise RuntimeError("no forward pass has been recorded: call the model inside the `with` block.")
        layout = token_layout(self._model, self.image_size)
        tokens = self.calls[0].query.shape[-2] if self.calls else layout.tokens
        if tokens != layout.tokens:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} attends among {tokens} tokens, but an image of {self.image_size} has "
                f"{layout.tokens}: it drops, merges or adds tokens, so that their places cannot be told."
            )
        return layout

    def attention(self, layer: int) -> Tensor:
        """Compute one layer's attention (batch, heads, tokens, tokens), at least in float32."""
        return self._call(layer).attention()

    def attention_grad(self, layer: int, score: Tensor) -> Tensor:
        """Compute the exact gradient of a score at one layer's attention (batch, heads, tokens, tokens).

        For several layers, `output_grads` and `AttentionCall.attention_grad` need one backward pass only.

        Args:
            layer: index into `calls`.
            score: (batch,) or scalar computed from the recorded output; summed over the batch.
        """
        call = self._call(layer)
        return call.attention_grad(_gradients(score, [call])[0])

    def output_grads(self, score: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients of a score at the outputs z of all layers in one backward pass.

        No `.grad` of a parameter is touched. The graph is kept, for further scores.

        Args:
            score: (batch,) or scalar computed from the recorded output; summed over the batch.

        Raises:
            RuntimeError: the forward pass was recorded without a graph.
        """
        return _gradients(score, self.calls)

    def _call(self, layer: int) -> AttentionCall:
        if not -len(self.calls) <= layer < len(self.calls):
            raise IndexError(f"`layer` must lie in [{-len(self.calls)}, {len(self.calls) - 1}], but got {layer}.")
        return self.calls[layer]

    def check_complete(self) -> None:
        """Raise UnsupportedModelError unless all attention of the recorded pass was seen.

        Reading a part of a model's attention and taking it for the whole would give a wrong explanation.
        """
        if self._manual_softmax:
            raise UnsupportedModelError(
                f"`{self._manual_softmax[0]}` computes its attention by an explicit softmax instead of "
                "scaled_dot_product_attention, so it cannot be read. Models with windowed, pooled, channel "
                "or talking-heads attention (Swin, MViT, XCiT, CaiT, ...) have no plain attention from every "
                "patch to every patch; use a ViT, or the model's scaled_dot_product_attention implementation "
                'where it has one (transformers: `attn_implementation="sdpa"`).'
            )
        if not self.seen:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} made no call of scaled_dot_product_attention among its tokens "
                "from one of its modules, so there is no attention to explain. Give a Vision Transformer that "
                "runs as plain PyTorch modules."
            )


def _gradients(score: Tensor, calls: Sequence[AttentionCall]) -> tuple[Tensor, ...]:
    if not all(call.output.requires_grad for call in calls):
        raise RuntimeError(
            "the forward pass was recorded without a graph: enable gradients and let the input (or the "
            "parameters) require them."
        )
    return torch.autograd.grad(
        score.sum(),
        [call.output for call in calls],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


@contextlib.contextmanager
def record_attention(
    model: nn.Module, consume: Callable[[AttentionCall], None] | None = None
) -> Iterator[AttentionRecord]:
    """Record the attention of every forward pass of `model` inside the `with` block.

    The model runs as it is, fused kernels included. For the time of the block, modules of timm that were
    built with `fused_attn=False` take their fused path, activation checkpointing is off and compiled parts run
    eagerly; all of it is restored, also after an exception. Other threads that run such a model meanwhile see these
    changes, which explainers do without. Call `model.eval()` first for the attention of evaluation.

    Args:
        model: a model whose modules call `torch.nn.functional.scaled_dot_product_attention`. Compiled models
            and (Distributed)DataParallel wrappers are looked into.
        consume: called with each self-attention call as it happens, which is then not kept. Memory does not
            grow with the number of layers.

    Yields:
        The record, filled as the model runs.

    Raises:
        UnsupportedModelError: a scripted model, which runs where nothing can be seen.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit").eval()
        >>> with record_attention(model) as record, torch.no_grad():
        ...     _ = model(torch.zeros(1, 3, 160, 160))
        >>> record.attention(0).shape, record.layout.grid
        (torch.Size([1, 2, 101, 101]), (10, 10))
    """
    inner = unwrap(model)
    record = AttentionRecord(inner)
    with readable(model), _Interception(record, inner, consume, _run):
        yield record


@contextlib.contextmanager
def record_unnoticed(
    model: nn.Module, consume: Callable[[AttentionCall], None] | None = None
) -> Iterator[AttentionRecord]:
    """Record a model from `evaluated` as `record_attention` does, without a trace that anybody else could notice.

    Args:
        model: the module that `evaluated` or `evaluation_copy` returned.
        consume: as of `record_attention`.

    Raises:
        UnsupportedModelError: a scripted model.
    """
    check_unscripted(model)
    record = AttentionRecord(model)
    with _Interception(record, model, consume, Unnoticed(model)):
        yield record


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


class _Interception(TorchFunctionMode):
    """Hands each attention call of one model's modules to its record."""

    def __init__(
        self,
        record: AttentionRecord,
        model: nn.Module,
        consume: Callable[[AttentionCall], None] | None,
        run: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        super().__init__()
        self.run = run
        self.record = record
        self.consume = consume
        self.modules = {id(module): (name, module) for name, module in model.named_modules()}
        embedding = find_patch_embedding(model)
        # A model that does not name its patch embedding takes the image in somewhere.
        inside = model.modules() if embedding is None else embedding.modules()
        self.entrance = {id(module): 0 for module in inside}
        self.counts_runs = embedding is not None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        opaque = self._caller() if func is F.multi_head_attention_forward else None
        result: Any = attend(self, opaque[0], args, kwargs) if opaque else self.run(func, args, kwargs)
        if func is F.scaled_dot_product_attention:
            self._attention(result, read_sdpa(*args, **kwargs))
        elif func is window_free_attention:
            self._attention(result.output, read_window_free(result, *args, **kwargs))
        elif func in _SOFTMAXES:
            self._softmax(result)
        if args and _is_image(args[0]):
            self._entrance(func, args[0])
        return result

    def _entrance(self, func: Any, image: Tensor) -> None:
        """Note the size in which the image reaches the patch embedding, and how often it does."""
        if self.record.image_size is not None and func not in _EMBEDDINGS:
            return
        caller = self._caller()
        if caller is None or id(caller[1]) not in self.entrance:
            return
        if self.record.image_size is None:
            self.record.image_size = (image.shape[-2], image.shape[-1])
        if self.counts_runs and func in _EMBEDDINGS:
            self.entrance[id(caller[1])] += 1
            self.record.embedding_runs = max(self.entrance.values())

    def _attention(self, output: Tensor, given: SDPA) -> None:
        caller = self._caller()
        if caller is None:
            return
        name, module, place = caller
        self.record.device = given.query.device
        if given.query.ndim == 3:
            given = _split_heads(module, name, given)
        call = AttentionCall(**vars(given), name=name, output=output, place=place)
        if call.is_pooling:
            self.record.pool_calls.append(call)
            return
        self.record.seen += 1
        if self.consume is None:
            self.record.calls.append(call)
        else:
            with torch.no_grad():
                self.consume(call)

    def _softmax(self, result: Tensor) -> None:
        # Routers and gates use softmax too: attention is what has heads, or is square.
        if result.ndim >= 4 or (result.ndim == 3 and result.shape[-1] == result.shape[-2]):
            caller = self._caller()
            if caller:
                self.record._manual_softmax.append(caller[0])

    def _caller(self) -> tuple[str, nn.Module, int] | None:
        """Find which module of the model is running, and where: the innermost frame whose `self` is one."""
        frame: FrameType | None = sys._getframe(2)
        others: dict[int, Any] = {}
        while frame is not None:
            owner = frame.f_locals.get("self")
            found = self.modules.get(id(owner))
            if found is not None:
                return *found, frame.f_lasti
            if isinstance(owner, _Interception):
                others |= owner.modules
            elif id(owner) in others:
                break  # another model, recorded by somebody else while this one runs: its teacher
            frame = frame.f_back
        return None


def _is_image(value: Any) -> bool:
    """Whether a value could be the model's input: the first such that its modules touch, a kernel's weight aside."""
    floating = isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
    return floating and not isinstance(value, nn.Parameter)


def _split_heads(module: nn.Module, name: str, given: SDPA) -> SDPA:
    """Undo the folding of heads into the batch, (batch · heads, tokens, width), that some models do."""
    heads = getattr(module, "num_heads", None)
    if not isinstance(heads, int) or given.query.shape[0] % heads:
        raise UnsupportedModelError(
            f"`{name}` calls scaled_dot_product_attention with a query of shape {tuple(given.query.shape)}; its heads "
            "cannot be told from its batch without an attribute `num_heads` on that module."
        )

    def split(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, heads, *tensor.shape[1:])

    mask = given.mask
    if mask is not None and mask.ndim == 3 and mask.shape[0] != 1:
        mask = split(mask)
    return replace(given, query=split(given.query), key=split(given.key), value=split(given.value), mask=mask)
