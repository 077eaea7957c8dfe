"""Patch-interaction uncertainty as an explainer: how much each patch matters to each other patch.

Source: Ma et al., arXiv 2203.05922, Eqs. 2 and 3 and Sec. 4.2.
"""

from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.record import AttentionCall
from vit_interactions.explain.attention_sinks import watch
from vit_interactions.explain.base import Explainer, only_tensor
from vit_interactions.explain.chosen_patch import ChosenPatchExplainer
from vit_interactions.explain.pair_map import PairMapped
from vit_interactions.functional.attention_sinks import AttentionSinks, RunningSinks
from vit_interactions.functional.indiscriminative import informativeness
from vit_interactions.functional.uncertainty import RunningUncertainty
from vit_interactions.utilities.checks import check_index


class Interactions(NamedTuple):
    """The result of one forward pass: U (batch, patches, patches), the token layout, and the attention sinks."""

    uncertainty: Tensor
    layout: TokenLayout
    sinks: AttentionSinks


class InteractionExplainer(PairMapped, Explainer):
    """Base class for maps computed from U, the interaction uncertainty of every pair of patches.

    The pair map is U, unless a subclass has another.
    """

    source = "Ma et al., Visualizing and Understanding Patch Interactions in Vision Transformer, arXiv 2203.05922"
    run_settings: ClassVar[tuple[str, ...]] = ("exclude_sinks",)

    def __init__(self, model: nn.Module, exclude_sinks: bool = False) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            exclude_sinks: leave out the columns of the patches that are attention sinks; see `attention_sinks`. They
                matter to no other patch: their columns of U are 0. Their own rows stay. False, as in the paper, keeps
                them.
        """
        super().__init__(model)
        self.exclude_sinks = exclude_sinks

    def interactions(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Interactions:
        """Compute U with all columns, and the attention sinks, in one forward pass.

        They do not depend on this explainer's options, so explainers can share them; see `map_of`. For the arguments
        see `uncertainty`.
        """
        sinks = RunningSinks()
        uncertainty, layout = self._pass(inputs, target, additional_forward_args, sinks)
        return Interactions(uncertainty, layout, sinks.result(layout.grid))

    def uncertainty(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Compute U (batch, patches, patches), at least float32; see `functional.uncertainty`.

        Args:
            inputs: (batch, channels, height, width).
            target: checked only; U does not depend on a class.
            additional_forward_args: further arguments of the model; a tuple is spread.
        """
        return self.compute(inputs, target, additional_forward_args)[0]

    def compute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> tuple[Tensor, TokenLayout, Tensor | None]:
        """Compute the arguments of `map_from`; sinks are found only if this explainer excludes them."""
        if self.exclude_sinks:
            return self.selected(self.interactions(inputs, target, additional_forward_args))
        return (*self._pass(inputs, target, additional_forward_args, None), None)

    def map_of(self, found: Interactions) -> Tensor:
        """Reduce the interactions to one value per patch, (batch, patches), with this explainer's options."""
        return self.map_from(*self.selected(found))

    def map_from(self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None) -> Tensor:
        """Reduce U (batch, patches, patches) to one value per patch, (batch, patches).

        Args:
            uncertainty: U, with columns of 0 for the excluded patches.
            layout: token layout.
            exclude: (batch, patches) bool, the excluded patches; None for none.
        """
        raise NotImplementedError

    def selected(self, found: Interactions) -> tuple[Tensor, TokenLayout, Tensor | None]:
        """Return the arguments of `map_from`: U without the sinks if this explainer excludes them."""
        if not self.exclude_sinks:
            return found.uncertainty, found.layout, None
        exclude = found.sinks.patches
        return found.uncertainty.masked_fill(exclude.unsqueeze(1), 0.0), found.layout, exclude

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        uncertainty, layout, exclude = self.compute(inputs, target, additional_forward_args)
        return self.map_from(uncertainty, layout, exclude), layout

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        return self.compute(inputs, target, additional_forward_args)[0]

    def _pass(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
        sinks: RunningSinks | None,
        fused: bool = False,
    ) -> tuple[Tensor, TokenLayout]:
        """Compute U in one forward pass, in which `sinks`, if given, watch the attention.

        `fused` computes it without `sinks` by the kernel of `functional.uncertainty_kernel`, where that supports the
        layers. No GPU has shown yet that it is faster, so only `tests/benchmarks/gpu.py` sets it.
        """
        if fused:
            return self._fused_pass(inputs, target, additional_forward_args)
        running = RunningUncertainty()

        def take_in(call: AttentionCall, layout: TokenLayout) -> None:
            batch, heads = call.query.shape[:2]
            shape = (batch, heads, layout.patches, layout.patches)
            blocks = call.blocks(layout.prefix) if sinks is None else watch(sinks, call, layout)
            running.update(blocks, shape, call.name)

        seen = self._observe(only_tensor(inputs), target, additional_forward_args, take_in)
        return running.result(), seen.layout

    def _fused_pass(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any, additional_forward_args: Any
    ) -> tuple[Tensor, TokenLayout]:
        from vit_interactions.functional.uncertainty_kernel import DeferredUncertainty  # it loads triton

        deferred = DeferredUncertainty()

        def keep(call: AttentionCall, layout: TokenLayout) -> None:
            deferred.add(call.query, call.key, call.mask, prefix=layout.prefix, name=call.name, **call.options)

        seen = self._observe(only_tensor(inputs), target, additional_forward_args, keep)
        return deferred.result(), seen.layout


class InteractionUncertainty(ChosenPatchExplainer, InteractionExplainer):
    """The interactions of a chosen patch, or how informative each patch is to all others.

    The map of patch p is u_p, its row of U. The map of all patches is the mean of each patch's column of U. Values are
    >= 0.

    Example:
        >>> import timm, torch
        >>> explainer = InteractionUncertainty(timm.create_model("test_vit"))
        >>> image = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
        >>> explainer.uncertainty(image).shape
        torch.Size([2, 100, 100])
        >>> explainer.attribute(image, patch=(5, 7)).shape
        torch.Size([2, 3, 160, 160])
    """

    quantity = "mean of the column of U"

    def _values(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, patch: tuple[int, int] | None
    ) -> tuple[Tensor, TokenLayout]:
        uncertainty, layout, _ = self.compute(inputs, target, additional_forward_args)
        if patch is None:
            return informativeness(uncertainty), layout
        return uncertainty[:, patch_index(patch, layout)], layout

    def map_from(self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None) -> Tensor:
        """Compute how informative each patch is to all others."""
        return informativeness(uncertainty)


def map_of_image(explainer: Explainer, inputs: Tensor, target: Any, found: Interactions | None) -> Tensor:
    """Compute the map of one image, (rows, cols), from its interactions if the method needs no more.

    Args:
        explainer: any method.
        inputs: (1, channels, height, width).
        target: class, or "pred"; used by class-specific methods only.
        found: the interactions of the image, computed before; None if they are not known.
    """
    if isinstance(explainer, InteractionExplainer) and found is not None:
        return explainer.map_of(found)[0].reshape(found.layout.grid)
    return explainer.patch_map(inputs, target if explainer.class_specific else None)[0]


def patch_index(patch: tuple[int, int], layout: TokenLayout) -> int:
    """Return the index of the patch at (row, col).

    Raises:
        ValueError: `patch` is not a pair of integers inside the grid.

    Example:
        >>> patch_index((1, 2), TokenLayout(prefix=1, rows=2, cols=3, readout="token", extent=(32, 48)))
        5
    """
    if not (isinstance(patch, tuple | list) and len(patch) == 2):
        raise ValueError(f"`patch` must be a tuple (row, col) of two ints, got {patch!r}.")
    row, col = (check_index("patch", part) for part in patch)
    if not (0 <= row < layout.rows and 0 <= col < layout.cols):
        raise ValueError(
            f"`patch` must lie in the grid: row in [0, {layout.rows - 1}], col in [0, {layout.cols - 1}], "
            f"got ({row}, {col})."
        )
    return row * layout.cols + col
