"""Compute a model's output from the tokens after each of its last blocks, as if it ended there.

Whatever follows the last block (norm, pooling, classifier, a module around the ViT) is the model's own code, run once
per block on the same images and arguments, so nothing about it is assumed.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.unwrap import unwrap


def enclosing_blocks(model: nn.Module, callers: Sequence[str]) -> list[nn.Module]:
    """Find the block of each attention layer: the element of the innermost list that contains all layers.

    Args:
        model: the model.
        callers: names of the attention modules, in the order of their calls.

    Raises:
        UnsupportedModelError: no list of blocks, or not one attention layer per block.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Tanh()))
        >>> enclosing_blocks(model, ["1.0", "1.1"])
        [ReLU(), Tanh()]
    """
    paths = [caller.split(".") for caller in callers]
    for end in reversed(range(min(map(len, paths)))):
        together = all(path[:end] == paths[0][:end] for path in paths)
        if together and isinstance(model.get_submodule(".".join(paths[0][:end])), nn.ModuleList | nn.Sequential):
            blocks = [unwrap(model.get_submodule(".".join(path[: end + 1]))) for path in paths]
            if len(set(blocks)) == len(blocks):
                return blocks
            raise _unsupported(model, f"runs {len(blocks)} attention layers in {len(set(blocks))} blocks")
    raise _unsupported(model, "has no nn.ModuleList or nn.Sequential that contains all of its attention layers")


@contextlib.contextmanager
def keeping_states(blocks: Sequence[nn.Module], used: int, tokens: int) -> Iterator[deque[Tensor]]:
    """Keep the tokens after each of the last `used` blocks, (batch, tokens, channels), as the model runs once.

    Every block gets the previous block's tokens detached from the graph, so that gradients from its tokens go back
    through that block alone.

    Args:
        blocks: all blocks of a model, in order.
        used: number of blocks kept, counted from the last.
        tokens: expected number of tokens.

    Raises:
        UnsupportedModelError: blocks that are not a plain chain, or not called once each.
    """
    states: deque[Tensor] = deque(maxlen=used)
    returned: list[Tensor] = []
    ran: list[nn.Module] = []

    def enter(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # `_version > 0`: the tensor was modified in place after the previous block returned it.
        if not args or (returned and (args[0] is not returned[0] or returned[0]._version)):
            raise _unsupported(block, "does not get exactly the output of the block before it")
        state = states[-1] if states else args[0]
        # A block may overwrite its input.
        return (state.detach().requires_grad_().clone(), *args[1:])

    def leave(block: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[1] != tokens:
            came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise _unsupported(block, f"returns {came}, not one tensor (batch, {tokens} tokens, channels)")
        ran.append(block)
        states.append(output)
        returned[:] = [output.detach().clone()]
        return returned[0]

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        yield states
    for block in blocks:
        if ran.count(block) != 1:
            raise _unsupported(
                block, f"is a block that is called {ran.count(block)} times, not once (its parts or `forward` are)"
            )


@contextlib.contextmanager
def with_last_state(blocks: Sequence[nn.Module], state: Tensor) -> Iterator[None]:
    """Compute a model's output from given tokens in place of those after its last block; no block computes anything.

    Any other module that reads a block's output gets NaN, which shows in the model's output.

    Args:
        blocks: all blocks of the model, in order.
        state: output of the last block, (batch, tokens, channels).
    """
    nan = torch.full_like(state, torch.nan)
    with contextlib.ExitStack() as stack:
        for block in blocks:
            # The model may overwrite it.
            stack.enter_context(_handing_on(block, state.clone() if block is blocks[-1] else nan.clone()))
        yield


@contextlib.contextmanager
def _handing_on(block: nn.Module, state: Tensor) -> Iterator[None]:
    own = vars(block).get("forward")
    vars(block)["forward"] = lambda *args, **kwargs: state
    try:
        yield
    finally:
        del vars(block)["forward"]
        if own is not None:
            vars(block)["forward"] = own


def _unsupported(module: nn.Module, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(module).__name__} {what}, so the output of each block on its own cannot be computed. Use a ViT "
        "whose blocks follow one another in a list, with one attention layer each."
    )
