"""Read the features of the patches after any block of a model, in the order of the image.

A block is what `enclosing_blocks` finds around an attention layer. Its output is observed by a hook on a copy of the
model's modules, while the model runs once.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.observe import Observation, observe
from vit_interactions.attention.own_input import own_input
from vit_interactions.attention.probe import probe
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.logit_lens import enclosing_blocks
from vit_interactions.utilities.checks import check_index

SAME = 0.1  # by how much the result of a norm may change if its input is doubled, relative to its size


def patch_features(
    model: nn.Module,
    images: Tensor,
    layer: int = -1,
    *,
    norm: bool = True,
    additional_forward_args: Any = None,
) -> Tensor:
    """Compute the features of every patch after a block of a model.

    Args:
        model: a ViT whose blocks follow one another in a list; it is not modified.
        images: (batch, channels, height, width).
        layer: index of the block; negative counts from the last.
        norm: apply the model's final norm, as DINOv2's `get_intermediate_layers` does. The last block's features are
            then those that the model's head reads. Models that pool before they normalize, or do not normalize all
            tokens, have no such norm, and give the same features with False.
        additional_forward_args: further positional arguments of the model; a tuple is spread.

    Returns:
        (batch, patches, width), patches row by row from the top left, without prefix tokens, outside any graph.

    Raises:
        UnsupportedModelError: no list of blocks, or a block that does not return one tensor of all tokens.
        IndexError: no such layer.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit")
        >>> patch_features(model, torch.zeros(1, 3, 160, 160), layer=2).shape
        torch.Size([1, 100, 64])
    """
    model = unwrap(model)
    own = evaluation_copy(model)
    with own_input(images) as image:
        blocks = BlockOutputs(own, layer_names(model, image, additional_forward_args), layer)
        with blocks.kept():
            seen = observe(own, image, additional_forward_args, lambda *_: None)
    return blocks.patches(layer, seen, norm=norm)


def layer_names(model: nn.Module, images: Tensor, additional_forward_args: Any) -> list[str]:
    """Return the name of each layer's attention module, in order; see `probe` for the arguments."""
    found = probe(model, images, additional_forward_args)
    if found.calls is not None and found.structure is not None:
        return [found.calls[layer[0]].name for layer in found.structure.layers]
    names: list[str] = []
    observe(model, images, additional_forward_args, lambda call, _: names.append(call.name))
    return names


class BlockOutputs:
    """The tokens after the blocks of a model, from the forward pass inside a `kept` block.

    Attributes:
        model: the model to run.
        layers: number of blocks.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], layer: int | None = None) -> None:
        """Find the blocks.

        Args:
            model: a model that hooks may be registered on, from `evaluation_copy`.
            names: names of the attention modules, from `layer_names`.
            layer: the only block whose output is kept; None for all.

        Raises:
            UnsupportedModelError: no list of blocks.
            IndexError: no such layer.
        """
        self.model, self._blocks = model, enclosing_blocks(model, names)
        self.layers = len(self._blocks)
        self._wanted = range(self.layers) if layer is None else [self._index(layer)]
        self._outputs: dict[int, list[Any]] = {}
        self._norms: list[nn.Module] = []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the outputs of the blocks in the forward pass of the model inside the `with` block."""
        self._outputs = {index: [] for index in self._wanted}
        self._norms.clear()
        last: list[tuple[Tensor, int]] = []  # the last block's output, and how often it was overwritten

        def leave(index: int) -> Callable[..., None]:
            def keep(_: nn.Module, args: Any, output: Any) -> None:
                tokens = output[0] if isinstance(output, tuple | list) and output else output
                if not isinstance(tokens, Tensor):
                    self._outputs[index].append(type(tokens).__name__)
                    return
                if index in self._outputs:
                    # A copy, because later modules may overwrite it.
                    self._outputs[index].append(tokens.detach().clone())
                if index == self.layers - 1:
                    last[:] = [(tokens, _version(tokens))]

            return keep

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if (
                last
                and len(args) == 1
                and args[0] is last[0][0]
                and not kwargs
                and _version(args[0]) == last[0][1]
            ):
                self._norms.append(module)

        def restart(module: nn.Module, args: Any) -> None:
            """Forget earlier passes: a target that is a function is probed before the actual pass."""
            for outputs in self._outputs.values():
                outputs.clear()
            self._norms.clear()
            last.clear()

        inside = {part for block in self._blocks for part in block.modules()}
        with contextlib.ExitStack() as stack:
            stack.callback(self.model.register_forward_pre_hook(restart).remove)
            for index, block in enumerate(self._blocks):
                stack.callback(block.register_forward_hook(leave(index)).remove)
            for module in self.model.modules():
                if module not in inside:
                    stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
            yield
        last.clear()

    def patches(self, layer: int, seen: Observation, *, norm: bool = True) -> Tensor:
        """Return the features of the patches after a block, (batch, patches, width); see `patch_features`.

        Args:
            layer: index of a block whose output is kept.
            seen: the observation of the forward pass.
            norm: apply the model's final norm.

        Raises:
            UnsupportedModelError: a block that does not return one tensor of all tokens.
        """
        index, layout = self._index(layer), seen.layout
        block, outputs = self._blocks[index], self._outputs[index]
        if len(outputs) != 1:
            raise _unsupported(
                block, f"is a block that ran {len(outputs)} times, not once (its parts or `forward` do)"
            )
        (state,) = outputs
        with torch.no_grad():
            state = self._normalized(state) if norm and isinstance(state, Tensor) else state
        # Some models keep their tokens as (batch, rows, cols, width).
        tokens = state.flatten(1, 2) if isinstance(state, Tensor) and state.ndim == 4 else state
        if not (
            isinstance(tokens, Tensor)
            and tokens.ndim == 3
            and tokens.shape[0] == (seen.record.images or len(tokens))
            and tokens.shape[1] in (layout.tokens, layout.patches)
        ):
            came = tuple(state.shape) if isinstance(state, Tensor) else state
            raise _unsupported(block, f"returns {came}, not one tensor (batch, {layout.tokens} tokens, width)")
        places = layout.places(tokens.shape[1])[-layout.patches :]
        return tokens[:, places.to(tokens.device)]

    def _normalized(self, state: Tensor) -> Tensor:
        """Apply the model's final norm: the first module that reads the last tokens and ignores their scale."""
        for module in self._norms:
            found = module(state.clone())
            if not isinstance(found, Tensor) or found.shape != state.shape:
                continue
            if (module(2 * state) - found).norm() <= SAME * found.norm():
                return found
        return state

    def _index(self, layer: int) -> int:
        check_index("layer", layer)
        if not -self.layers <= layer < self.layers:
            raise IndexError(
                f"`layer` must lie in [{-self.layers}, {self.layers - 1}] for this model, got {layer}."
            )
        return layer % self.layers


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was overwritten; 0 if that is not known."""
    return 0 if tensor.is_inference() else tensor._version


def _unsupported(block: nn.Module, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{type(block).__name__} {what}, so the features after each block cannot be read. Use a ViT whose blocks "
        "follow one another in a list and return their tokens."
    )
