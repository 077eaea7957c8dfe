"""Let a model answer from the tokens after each of its last blocks, as if it ended there.

What follows the last block (norm, pooling, classifier, whatever a module around the ViT adds) is the model's own code,
run once for all of these blocks, side by side in the batch. So nothing about it has to be known.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.unwrap import unwrap


def enclosing_blocks(model: nn.Module, callers: Sequence[str]) -> list[nn.Module]:
    """Find the block of each attention layer: the element of the innermost list that holds all layers.

    Args:
        model: the model.
        callers: names of the modules that attend, in the order in which they do.

    Raises:
        UnsupportedModelError: no list of blocks, or not one attention in each.

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
            raise _refusal(model, f"runs {len(blocks)} attention layers in {len(set(blocks))} blocks")
    raise _refusal(model, "has no nn.ModuleList or nn.Sequential that holds all of its attention layers")


@contextlib.contextmanager
def answering_for_blocks(
    blocks: Sequence[nn.Module], used: int, tokens: int, read: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Let the last block hand on what is read of the tokens after each of the last `used` blocks, one after another.

    Every block gets the tokens after the one before it outside the graph, so that the model's answer for a block goes
    back through that block alone. Whoever else reads a block's output gets NaN, which shows in the answer.

    Args:
        blocks: all blocks of a model, in order.
        used: how many of them, counted from the last.
        tokens: how many tokens there are.
        read: takes the tokens after a block (batch, tokens, channels) to what is handed on of them, in that shape.

    Raises:
        UnsupportedModelError: blocks that are not a plain chain.
    """
    states: deque[Tensor] = deque(maxlen=used)
    handed: list[Tensor] = []

    def enter(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not args or (handed and args[0] is not handed[0]):
            raise _refusal(block, "is not given just what the block before it hands on")
        state = states[-1] if states else args[0]
        # A block may overwrite what it is given.
        return (state.detach().requires_grad_().clone(), *args[1:])

    def leave(block: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[1] != tokens:
            came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise _refusal(block, f"gives {came}, not one tensor (batch, {tokens} tokens, channels)")
        states.append(output)
        if block is blocks[-1]:
            handed[:] = [torch.cat([*map(read, states)])]
        else:
            handed[:] = [output.new_full((), torch.nan).expand(used * output.shape[0], *output.shape[1:])]
        return handed[0]

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        yield


def answers(together: Any, alone: Any, used: int) -> list[Any]:
    """Take the answer for each block from the model's output for all.

    Args:
        together: the output under `answering_for_blocks`: a tensor, or tensors in tuples, lists, dicts and the like.
        alone: the model's plain output.
        used: as there.

    Returns:
        `used` outputs like `alone`. What is not computed image by image from what the last block hands on is NaN.

    Example:
        >>> answers({"logits": torch.tensor([[1.0], [2.0]])}, {"logits": torch.tensor([[1.0]])}, used=2)
        [{'logits': tensor([[1.]])}, {'logits': tensor([[2.]])}]
    """

    def take(index: int, whole: Any, plain: Any) -> Any:
        if not isinstance(whole, Tensor) or torch.equal(whole, plain):
            return whole
        if plain.ndim and whole.shape == (used * len(plain), *plain.shape[1:]):
            return whole.chunk(used)[index]
        return whole * torch.nan

    return [tree_map(partial(take, index), together, alone) for index in range(used)]


def _refusal(module: nn.Module, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(module).__name__} {what}, so what each block would answer on its own cannot be computed. Use a ViT "
        "whose blocks follow one another in a list, with one attention each."
    )
