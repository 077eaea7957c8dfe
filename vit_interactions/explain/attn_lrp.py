"""AttnLRP and CP-LRP: relevance of pixels by layer-wise propagation through a Vision Transformer.

Source: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024; Ali
et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022. For ViTs the former
recommend the latter's attention with γ-rules; of γ they give a search, no default: the values here are this library's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from captum.log import log_usage
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import guarded
from vit_interactions.attention.own_input import own_input
from vit_interactions.attention.probe import as_arguments
from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.explain.base import only_tensor
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.rules import REARRANGEMENTS, Rules, depends, ruled, scaled_gradient
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.explain.zero_map import warn_of_zeros
from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.checks import check_choice
from vit_interactions.functional.lrp import (
    check_gamma,
    elementwise_rule,
    gamma_rule,
    group_norm_rule,
    layer_norm_rule,
    rms_norm_rule,
)

Variant = Literal["cp", "attn"]

# Operations that are sums, with constant weights, of what was computed from the image, or pick some of it.
_SUMS = """
    __radd__ __rsub__ adaptive_avg_pool2d add add_ avg_pool2d interpolate masked_fill max_pool2d mean neg rsub sub sub_
    subtract sum
"""


class AttnLRP(GradientExplainer):
    """The signed relevance of every pixel, x · ds/dx with derivatives replaced by rules; summed over each patch.

    `attribute` gives the relevance of each pixel and channel itself, not a resized map over patches. Without γ and in
    the variant "cp", the relevances of all pixels, biases and embeddings sum to the score.

    Example:
        >>> import timm
        >>> explainer = AttnLRP(timm.create_model("test_vit"))
        >>> images = torch.rand(1, 3, 160, 160)
        >>> pixels, patches = explainer.attribute(images, target=3), explainer.patch_map(images, target=3)
        >>> pixels.shape, patches.shape, torch.allclose(pixels.sum(), patches.sum(), atol=1e-5)
        (torch.Size([1, 3, 160, 160]), torch.Size([1, 10, 10]), True)
    """

    quantity = "relevance"
    source = "Achtibat et al., AttnLRP, ICML 2024, arXiv 2402.05602; Ali et al., ICML 2022, arXiv 2202.07304"

    def __init__(
        self,
        model: nn.Module,
        variant: Variant = "cp",
        conv_gamma: float | None = 0.25,
        linear_gamma: float | None = 0.05,
    ) -> None:
        """Take the model and the options of the method.

        Args:
            model: any ViT.
            variant: "cp" holds the attention constant (CP-LRP, recommended for images); "attn" passes a quarter of
                the gradient to queries and keys and half of it to values (AttnLRP).
            conv_gamma: γ of convolutions; 0 or None leaves their gradient as it is, the ε-rule.
            linear_gamma: γ of linear layers; likewise.

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
        """Explain each image by the signed relevance of each of its numbers.

        Args:
            inputs: (batch, channels, height, width), or a tuple with that one tensor.
            target: the class, in captum's forms, "pred" or a function of the output.
            additional_forward_args: further arguments of the model; a tuple is spread.

        Returns:
            A tensor of the input's shape, at least float32, contiguous, on its device; a tuple if `inputs`
            was one. Its channels sum to the relevance of a pixel.

        Raises:
            UnsupportedModelError: an operation on the image that there is no rule for.
            ValueError: no target; inputs of a wrong shape; relevance that is not finite.
        """
        with own_input(self.model, only_tensor(inputs)) as image:
            attribution, _ = self._relevance(image, target, additional_forward_args)
        warn_of_zeros(type(self).__name__, attribution)
        return (attribution,) if isinstance(inputs, tuple) else attribution

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        relevance, layout = self._relevance(inputs, target, additional_forward_args)
        return sum_patches(relevance, layout).flatten(1), layout

    def _relevance(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        model = evaluated(self.model)
        rules = LRPRules(model, self.variant, self.conv_gamma, self.linear_gamma)
        # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = inputs.detach().clone().requires_grad_()
            with guarded(model, inputs, additional_forward_args, lambda call, layout: None, rules) as guard:
                output = model(leaf, *as_arguments(additional_forward_args))
            guard.finish()
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
        return relevance.contiguous(), guard.layout


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


class LRPRules(Rules):
    """The derivatives of AttnLRP and CP-LRP.

    Sigmoid gates are held constant, and a product of two things computed from the image passes half to each, so that
    x · sigmoid(x) written out and `F.silu` agree.
    """

    method = "AttnLRP"
    kept = REARRANGEMENTS | frozenset(_SUMS.split())

    def __init__(self, model: nn.Module, variant: Variant, conv_gamma: float, linear_gamma: float) -> None:
        """Take the options of `AttnLRP`."""
        super().__init__(model)
        self.variant, self.conv_gamma, self.linear_gamma = variant, conv_gamma, linear_gamma

    def activation(self, value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Pass all relevance of an activation to its argument."""
        result: Tensor = ruled(value, lambda gradient, x: (elementwise_rule(gradient, x, value(x)),), x)
        return result

    def on_scaled_dot_product_attention(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Hold the attention constant, or share out the gradient among queries, keys and values."""
        given = read_sdpa(*args, **kwargs)
        if self.variant == "cp":
            given = replace(given, mask=None if given.mask is None else given.mask.detach())
        elif depends(given.mask):
            self.refuse("computes a mask of its attention from the image")
        query, key, value = self._shared(given.query, given.key, given.value)
        return replace(given, query=query, key=key, value=value).run(func)

    def on_window_free_attention(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Take the windows as constants, and do as in other attention."""
        return func(*self._shared(query, key, value), *args, **kwargs)

    def _shared(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.variant == "cp":
            return query.detach(), key.detach(), value
        return scaled_gradient(query, 0.25), scaled_gradient(key, 0.25), scaled_gradient(value, 0.5)

    def on_sigmoid(self, func: Any, x: Tensor) -> Any:
        """Hold a gate constant."""
        return func(x).detach()

    on_hardsigmoid = on_sigmoid

    def on_mul(self, func: Any, a: Any, b: Any) -> Any:
        """Pass half of the gradient to each factor, all of it where the other is a constant."""
        if depends(a) and depends(b):
            a, b = scaled_gradient(a, 0.5), scaled_gradient(b, 0.5)
        return func(a, b)

    on_multiply = on_mul

    def on_mul_(self, func: Any, a: Tensor, b: Any) -> Any:
        """Multiply in place by constants only."""
        if depends(b):
            self.refuse("multiplies in place by what it computed from the image")
        return func(a, b)

    def on_div(self, func: Any, a: Any, b: Any, **kwargs: Any) -> Any:
        """Divide by constants only."""
        if depends(b):
            self.refuse("divides by what it computed from the image")
        return func(a, b, **kwargs)

    def on_matmul(self, func: Any, a: Tensor, b: Tensor) -> Any:
        """Multiply by constant matrices only."""
        if depends(a) and depends(b):
            self.refuse("multiplies two matrices that it computed from the image")
        return func(a, b)

    on_bmm = on_matmul

    def on_linear(self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        """Apply the γ-rule of linear layers."""
        return self._linear(func, func, self.linear_gamma, input, weight, bias)

    def on_conv2d(
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Apply the γ-rule of convolutions."""

        def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
            return func(x, weight, bias, *args, **kwargs)

        return self._linear(func, convolve, self.conv_gamma, input, weight, bias)

    on_conv1d = on_conv3d = on_conv2d

    def _linear(
        self, func: Any, operation: Any, gamma: float, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Any:
        if depends(weight) or depends(bias):
            self.refuse("computes weights from the image")
        if not gamma:
            return operation(x, weight, bias)

        def rule(gradient: Tensor, x: Tensor) -> tuple[Tensor]:
            return (gamma_rule(gradient, x, weight, bias, gamma, operation),)

        return ruled(partial(operation, weight=weight, bias=bias), rule, x)

    def on_layer_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Any:
        """Hold the standard deviation constant."""
        return ruled(
            lambda x: func(x, normalized_shape, weight, bias, eps),
            lambda gradient, x: (layer_norm_rule(gradient, x, weight, len(normalized_shape), eps),),
            input,
        )

    def on_rms_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Any:
        """Hold the root mean square constant."""
        return ruled(
            lambda x: func(x, normalized_shape, weight, eps),
            lambda gradient, x: (rms_norm_rule(gradient, x, weight, len(normalized_shape), eps),),
            input,
        )

    def on_group_norm(
        self,
        func: Any,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Any:
        """Hold the standard deviations constant."""
        return ruled(
            lambda x: func(x, num_groups, weight, bias, eps),
            lambda gradient, x: (group_norm_rule(gradient, x, num_groups, weight, eps),),
            input,
        )

    def on_batch_norm(self, func: Any, input: Tensor, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        """Keep the derivative, which in evaluation is that of a constant scale."""
        if training or any(isinstance(argument, bool) and argument for argument in args):
            self.refuse("normalises by the statistics of the batch")
        return func(input, *args, training=training, **kwargs)
