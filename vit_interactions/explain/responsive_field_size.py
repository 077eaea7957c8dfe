"""The size of each patch's responsive field.

Source: Ma et al., arXiv 2203.05922, Sec. 4.3: fields of object patches tend to be smaller. Not in every model, and less
than it seems without null models (docs/field_claims.md).
"""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer
from vit_interactions.functional.responsive_field import ResponsiveField, responsive_field
from vit_interactions.utilities.checks import check_fraction


class FieldExplainer(InteractionExplainer):
    """Base class for maps computed from the responsive field of every patch."""

    run_settings = ("alpha", "beta", "exclude_sinks")

    def __init__(
        self, model: nn.Module, alpha: float = 0.10, beta: float = 0.20, exclude_sinks: bool = False
    ) -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            alpha: fraction of all patch pairs that count as relevant, in [0, 1].
            beta: fraction of the patches dropped as indiscriminative, in [0, 1].
            exclude_sinks: leave out the attention sinks: they are relevant to no other patch, and are not ranked for
                `beta`. Windows that other patches open still contain them.

        Raises:
            ValueError: `alpha` or `beta` outside [0, 1].
        """
        super().__init__(model, exclude_sinks)
        check_fraction("alpha", alpha)
        check_fraction("beta", beta)
        self.alpha, self.beta = alpha, beta

    def field(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> ResponsiveField:
        """Compute the responsive fields of a batch of images; see `functional.responsive_field`."""
        return self.field_from(*self._uncertainty(inputs, target, additional_forward_args))

    def field_from(
        self, uncertainty: Tensor, layout: TokenLayout, exclude: Tensor | None = None
    ) -> ResponsiveField:
        """Compute the responsive fields from U, with this explainer's α and β."""
        return responsive_field(uncertainty, layout.grid, self.alpha, self.beta, exclude=exclude)


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
