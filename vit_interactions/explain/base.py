"""Base class of all explainers: captum's contract, an unchanged model, and maps from patches to pixels.

An explainer is one file with one class, whose `_explain` turns a batch of images into values per patch. Everything
around it (tuples, targets, shapes) is handled here.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, ClassVar, TypeVar

import torch.nn.functional as F
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from vit_interactions.attention.evaluation_copy import evaluation_copy
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import Observation, observe
from vit_interactions.attention.own_input import own_input
from vit_interactions.attention.record import AttentionCall
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.targets import select_target
from vit_interactions.explain.zero_map import warn_of_zeros

Own = TypeVar("Own", bound="Explainer")


class Explainer(Attribution):  # type: ignore[misc]
    """A captum attribution method over the patches of a Vision Transformer.

    Attributes:
        class_specific: whether the map depends on `target`.
        needs_attention: whether it reads the model's attention, so that it needs a Vision Transformer.
        forwards: forward passes per call.
        backwards: backward passes per call.
        more_is_relevant: whether higher is more relevant; False: lower is.
        quantity: label of the values, for a color bar.
        source: the paper or code of the method.
        complete: whether the patches sum to the score minus that of the mean color (an input of zeros), as the method
            claims. The score is the output before any softmax.
        library: name of the library that computes the map.
        run_settings: options that follow the setting of the same name of a run, unless set; see `explain.settings`.
        run_defaults: values of other options in a run, unless set.
    """

    class_specific: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = True
    forwards: ClassVar[int] = 1
    backwards: ClassVar[int] = 0
    more_is_relevant: ClassVar[bool] = True
    quantity: ClassVar[str]
    source: ClassVar[str]
    complete: bool = False
    library: ClassVar[str] = "vit_interactions"
    run_settings: ClassVar[tuple[str, ...]] = ()
    run_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: nn.Module) -> None:
        """Create the explainer; the model is not modified, so several threads may explain or run it at once.

        Args:
            model: any ViT; compiled models and (Distributed)DataParallel wrappers are unwrapped.
        """
        self.model = unwrap(model)
        super().__init__(self.model)

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Compute attributions with the input's shape, like captum's methods.

        The map over patches is resized bilinearly to the pixels that the patches cover; pixels that no patch
        covers get 0. All channels have the same values.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: the class, in captum's forms. Methods that are not class-specific only check it.
            additional_forward_args: further arguments of the model; a tuple is spread.

        Returns:
            A tensor of the input's shape, at least float32, contiguous, on its device; a tuple if `inputs`
            was one.
        """
        return self._attribute(inputs, lambda x: self._explain(x, target, additional_forward_args))

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NotImplementedError, like most of captum's methods."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}.")

    def patch_map(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute a map with one raw value per patch.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: as in `attribute`.
            additional_forward_args: as in `attribute`.

        Returns:
            (batch, rows, cols), at least float32, on the input's device.

        Warns:
            ZeroMapWarning: a map that is zero everywhere.
        """
        with own_input(only_tensor(inputs)) as image:
            return self._as_maps(*self._explain(image, target, additional_forward_args))

    def _on_copy(self: Own) -> Own:
        """Return the explainer of a copy of the model, on which hooks may be registered."""
        own = copy(self)
        own.model = own.forward_func = evaluation_copy(self.model)
        return own

    def _as_maps(self, patches: Tensor, layout: TokenLayout) -> Tensor:
        """Reshape values (batch, patches) to maps (batch, rows, cols), with a warning for maps that are zero."""
        warn_of_zeros(type(self).__name__, patches)
        return patches.reshape(-1, layout.rows, layout.cols)

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        """Compute one value per patch, (batch, patches), and the token layout."""
        raise NotImplementedError

    def _observe(
        self,
        inputs: Tensor,
        target: Any,
        additional_forward_args: Any,
        on_layer: Callable[[AttentionCall, TokenLayout], None],
    ) -> Observation:
        """Run the model forward without a graph, passing each layer's attention to `on_layer`."""

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        chosen = None if target is None else score
        with own_input(inputs) as image:
            seen = observe(self.model, image, additional_forward_args, on_layer, chosen)
        if chosen:
            chosen(seen.output)
        return seen

    def _attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        explain: Callable[[Tensor], tuple[Tensor, TokenLayout]],
    ) -> Tensor | tuple[Tensor, ...]:
        """Resize the map of `explain` to the input's pixels; return a tuple if `inputs` was one."""
        with own_input(only_tensor(inputs)) as image:
            patches, layout = explain(image)
        maps = self._as_maps(patches, layout)
        pixels = to_pixels(maps, layout.extent, (image.shape[-2], image.shape[-1]))
        attribution = pixels.unsqueeze(1).expand(image.shape).contiguous()
        return (attribution,) if isinstance(inputs, tuple) else attribution


def only_tensor(inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the one tensor of captum's `inputs`.

    Raises:
        ValueError: a tuple that does not contain exactly one tensor.
    """
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(f"`inputs` must be one batch of images, got a tuple of {len(inputs)}.")
        return inputs[0]
    return inputs


def to_pixels(patch_map: Tensor, extent: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Resize a map over patches bilinearly to the pixels of the model's input.

    Args:
        patch_map: (batch, rows, cols).
        extent: (height, width) in pixels that the patches cover.
        image_size: (height, width) of the input; what lies outside the extent gets 0.

    Returns:
        (batch, height, width).

    Example:
        >>> import torch
        >>> to_pixels(torch.tensor([[[0.0, 1.0]]]), extent=(2, 4), image_size=(1, 5))
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000, 0.0000]]])
    """
    resized = F.interpolate(patch_map.unsqueeze(1), size=extent, mode="bilinear", align_corners=False)
    height, width = image_size
    return F.pad(resized, (0, width - extent[1], 0, height - extent[0])).squeeze(1)
