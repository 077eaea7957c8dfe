"""The size of each patch's responsive field.

Source: Ma et al., arXiv 2203.05922, Sec. 4.3: fields of object patches tend to be smaller. This does not hold for every
model, and null models explain much of the difference (docs/field_claims.md).
"""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer
from vit_interactions.functional.responsive_field import ResponsiveField, responsive_field
from vit_interactions.utilities.checks import check_fraction


class FieldExplainer(InteractionExplainer):
    """Base class for maps computed from the responsive field of every patch.

    The pair map is the membership in the fields: row p is 1 for the patches in the field of p, and 0 for others.
    """

    run_settings = ("alpha", "beta", "coverage", "exclude_sinks")

    def __init__(
        self,
        model: nn.Module,
        alpha: float = 0.10,
        beta: float = 0.20,
        coverage: float = 1.0,
        exclude_sinks: bool = False,
    ) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            alpha: fraction of all patch pairs that count as relevant, in [0, 1].
            beta: fraction of the patches dropped as indiscriminative, in [0, 1].
            coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the
                paper's bounding box. See `adaptive_windows`.
            exclude_sinks: leave out the attention sinks: they are relevant to no other patch, and are not ranked for
                `beta`. Windows may still contain them.

        Raises:
            ValueError: `alpha`, `beta` or `coverage` outside [0, 1].
        """
        super().__init__(model, exclude_sinks)
        check_fraction("alpha", alpha)
        check_fraction("beta", beta)
        check_fraction("coverage", coverage)
        self.alpha, self.beta, self.coverage = alpha, beta, coverage

    def field(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> ResponsiveField:
        """Compute the responsive fields of a batch of images; see `functional.responsive_field`."""
        return self.field_from(*self.compute(inputs, target, additional_forward_args))

    def _pairs(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Tensor:
        return self.field(inputs, target, additional_forward_args).mask.float()

    def field_from(
        self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None
    ) -> ResponsiveField:
        """Compute the responsive fields from U, with this explainer's α, β and coverage."""
        return responsive_field(
            uncertainty, layout.grid, self.alpha, self.beta, coverage=self.coverage, exclude=exclude
        )


class ResponsiveFieldSize(FieldExplainer):
    """The number of patches that each patch responds to; lower is more relevant.

    Example:
        >>> import timm, torch
        >>> explainer = ResponsiveFieldSize(timm.create_model("test_vit"), alpha=0.0)
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160)).unique()  # every patch responds to itself only
        tensor([1.])
    """

    more_is_relevant = False
    quantity = "patches in the field"

    def map_from(self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None) -> Tensor:
        """Count the patches in each field."""
        return self.field_from(uncertainty, layout, exclude).size.float()
