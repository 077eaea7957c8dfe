"""AttnLRP and CP-LRP: relevance of pixels by layer-wise propagation through a vision model.

Source: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024; Ali
et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022. For ViTs the former
recommend the latter's attention with γ-rules. They search for γ; the defaults are this library's.
"""

from typing import Any, get_args

import torch
import torch.nn.functional as F
from captum.log import log_usage
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.own_input import differentiable, own_input
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.readable import check_unscripted
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.lrp_rules import LRPRules, Variant
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.explain.zero_map import warn_of_zeros
from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.lrp import check_gamma
from vit_interactions.utilities.checks import check_choice


class AttnLRP(GradientExplainer):
    """The signed relevance of every pixel, x · ds/dx with derivatives replaced by rules; summed over each patch.

    `attribute` gives the relevance of each pixel and channel itself, not a resized map over patches. Without γ, in the
    variant "cp", the relevances of all pixels, biases and embeddings sum to the score.

    Example:
        >>> import timm
        >>> explainer = AttnLRP(timm.create_model("test_vit"))
        >>> images = torch.rand(1, 3, 160, 160)
        >>> pixels, patches = explainer.attribute(images, target=3), explainer.patch_map(images, target=3)
        >>> pixels.shape, patches.shape, torch.allclose(pixels.sum(), patches.sum(), atol=1e-5)
        (torch.Size([1, 3, 160, 160]), torch.Size([1, 10, 10]), True)
    """

    needs_attention = False
    quantity = "relevance"
    source = "Achtibat et al., AttnLRP, ICML 2024, arXiv 2402.05602; Ali et al., ICML 2022, arXiv 2202.07304"

    def __init__(
        self,
        model: nn.Module,
        variant: Variant = "cp",
        conv_gamma: float | None = 0.25,
        linear_gamma: float | None = 0.05,
    ) -> None:
        """Create the explainer.

        Args:
            model: any model.
            variant: "cp" treats attention as constant (CP-LRP, recommended for images); "attn" passes a quarter of
                the gradient to queries and keys and half of it to values (AttnLRP).
            conv_gamma: γ of convolutions; 0 or None keeps their gradient (ε-rule).
            linear_gamma: γ of linear layers; 0 or None keeps their gradient.

        Raises:
            ValueError: an option outside its range.
        """
        super().__init__(model)
        check_choice("variant", variant, get_args(Variant))
        check_gamma("conv_gamma", conv_gamma)
        check_gamma("linear_gamma", linear_gamma)
        self.variant, self.conv_gamma, self.linear_gamma = variant, conv_gamma or 0.0, linear_gamma or 0.0

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Compute the signed relevance of each pixel and channel.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: the class, in captum's forms, "pred" or a function of the output.
            additional_forward_args: further arguments of the model; a tuple is spread.

        Returns:
            A tensor of the input's shape, at least float32, contiguous, on its device; a tuple if `inputs`
            was one. Its channels sum to the relevance of a pixel.

        Raises:
            UnsupportedModelError: an operation on the image without a rule.
            ValueError: no target; inputs of a wrong shape; relevance that is not finite.
        """
        with own_input(only_tensor(inputs)) as image:
            attribution, _ = self._relevance(image, target, additional_forward_args)
        warn_of_zeros(type(self).__name__, attribution)
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        relevance, layout = self._relevance(inputs, target, additional_forward_args)
        return sum_patches(relevance, layout).flatten(1), layout

    def _relevance(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        layout = image_layout(self.model, inputs, additional_forward_args)
        model = evaluated(self.model)
        check_unscripted(model)
        rules = LRPRules(model, self.variant, self.conv_gamma, self.linear_gamma)
        with differentiable(inputs) as leaf:
            with rules, evaluation_mode(model):
                output = model(leaf, *as_arguments(additional_forward_args))
            scores = select_target(output, target, len(inputs))
            rules.check_graph(scores)
            (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise UnsupportedModelError("the score does not depend on the image, so no pixel has relevance.")
        relevance = at_least_float32(inputs.detach()) * at_least_float32(gradient)
        if not relevance.isfinite().all():
            raise ValueError(
                "the relevance of the pixels is not finite: gradients overflowed. Use a float32 model, or larger "
                "`conv_gamma` and `linear_gamma`."
            )
        return relevance.contiguous(), layout


def sum_patches(attribution: Tensor, layout: TokenLayout) -> Tensor:
    """Sum an attribution over the channels and pixels of each patch.

    Args:
        attribution: (batch, channels, height, width).
        layout: where the patches are; pixels outside them count for none.

    Returns:
        (batch, rows, cols).

    Example:
        >>> layout = TokenLayout(prefix=1, rows=1, cols=2, readout="token", extent=(2, 4))
        >>> sum_patches(torch.ones(1, 3, 2, 5), layout)
        tensor([[[12., 12.]]])
    """
    height, width = layout.extent
    pixels = attribution.sum(1)
    pixels = F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))
    return pixels.reshape(-1, layout.rows, height // layout.rows, layout.cols, width // layout.cols).sum((2, 4))
