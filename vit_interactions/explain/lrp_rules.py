"""The rules of AttnLRP and CP-LRP, one per operation, for whatever a vision model is made of.

Source: Achtibat et al., "AttnLRP", ICML 2024, Section 3. In gradient times input: the softmax keeps its derivative
(Proposition 3.1), the factors of a product share its gradient equally (3.2 elementwise, 3.3 for matrices), and what
normalizes is constant (3.4).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.multihead import attend
from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.explain.relevance_mode import (
    REARRANGEMENTS,
    RelevanceMode,
    depends_on_image,
    scaled_gradient,
    with_derivative,
    with_derivative_of_output,
)
from vit_interactions.functional.lrp import (
    elementwise_rule,
    gamma_rule,
    group_norm_rule,
    layer_norm_rule,
    normalize_rule,
    rms_norm_rule,
)

Variant = Literal["cp", "attn"]

# Weighted sums with constant weights, and selections. Norms and maxima are proportional to the scale of their input, so
# their derivative conserves relevance too.
_SUMS = """
    __radd__ __rsub__ adaptive_avg_pool2d add add_ amax avg_pool2d interpolate masked_fill max max_pool2d maximum mean
    neg norm rsub sub sub_ subtract sum vector_norm
"""


def equal_parts(*factors: Any) -> tuple[Any, ...]:
    """Divide the gradient equally among the factors of a product that were computed from the image.

    Example:
        >>> import torch
        >>> x, y = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
        >>> a, b, c = equal_parts(x, y, 4.0)
        >>> [gradient.item() for gradient in torch.autograd.grad(a * b * c, (x, y))]
        [6.0, 4.0]
    """
    count = sum(map(depends_on_image, factors))
    return tuple(scaled_gradient(f, 1 / count) if count > 1 and depends_on_image(f) else f for f in factors)


class LRPRules(RelevanceMode):
    """The derivatives of AttnLRP and CP-LRP.

    Gates (sigmoid, and softmax in the variant "cp") and divisors are constants. A product of two things computed from
    the image passes half to each. So x · sigmoid(x) written out and `F.silu` agree, and softmax(...) @ v and
    `F.scaled_dot_product_attention`.
    """

    method = "AttnLRP"
    kept = REARRANGEMENTS | frozenset(_SUMS.split())

    def __init__(self, model: nn.Module, variant: Variant, conv_gamma: float, linear_gamma: float) -> None:
        """Create the mode with the options of `AttnLRP`."""
        super().__init__(model)
        self.variant, self.conv_gamma, self.linear_gamma = variant, conv_gamma, linear_gamma

    def activation(self, value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Pass all relevance of an activation to its argument."""
        result: Tensor = with_derivative_of_output(
            value, lambda gradient, y, x: (elementwise_rule(gradient, x, y),), x
        )
        return result

    def on_scaled_dot_product_attention(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Treat attention as constant, or split the gradient among queries, keys and values."""
        given = read_sdpa(*args, **kwargs)
        if self.variant == "cp":
            given = replace(given, mask=None if given.mask is None else given.mask.detach())
        elif given.mask is not None and depends_on_image(given.mask):
            given = replace(given, mask=scaled_gradient(given.mask, 0.5))
        query, key, value = self._shared(given.query, given.key, given.value)
        return replace(given, query=query, key=key, value=value).run(func)

    def on_window_free_attention(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Treat the windows as constant, and apply the rule of attention."""
        return func(*self._shared(query, key, value), *args, **kwargs)

    def _shared(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.variant == "cp":
            return query.detach(), key.detach(), value
        return scaled_gradient(query, 0.25), scaled_gradient(key, 0.25), scaled_gradient(value, 0.5)

    def on_sigmoid(self, func: Any, x: Tensor) -> Any:
        """Treat a gate as constant."""
        return func(x).detach()

    on_hardsigmoid = on_sigmoid

    def on_softmax(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Treat probabilities as constant, or keep the derivative (Taylor expansion at the scores)."""
        result = func(*args, **kwargs)
        return result.detach() if self.variant == "cp" else result

    def on_multi_head_attention_forward(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Open `nn.MultiheadAttention`, and apply the rules to its operations."""
        return attend(self, self.caller()[0], args, kwargs)

    def on_mul(self, func: Any, a: Any, b: Any) -> Any:
        """Pass half of the gradient to each factor, or all of it if the other factor is constant."""
        return func(*equal_parts(a, b))

    on_multiply = on_matmul = on_bmm = on_mm = on_mul

    def on_mul_(self, func: Any, a: Tensor, b: Any) -> Any:
        """Apply the rule of `mul`, and overwrite the first factor."""
        return (
            a.copy_(torch.mul(*equal_parts(a.clone(), b)))
            if depends_on_image(a) and depends_on_image(b)
            else func(a, b)
        )

    def on_einsum(self, func: Any, equation: Any, *operands: Any) -> Any:
        """Pass an equal part of the gradient to each factor."""
        factors = operands[0] if isinstance(operands[0], (list, tuple)) else operands
        return func(equation, *equal_parts(*factors))

    def on_div(self, func: Any, a: Any, b: Any, **kwargs: Any) -> Any:
        """Treat the divisor as constant, as in normalization."""
        return func(a, b.detach() if isinstance(b, Tensor) else b, **kwargs)

    on_true_divide = on_divide = on_div_ = on_div

    def on_rsqrt(self, func: Any, x: Tensor, *args: Any) -> Any:
        """Treat a divisor as constant."""
        return func(x.detach(), *args)

    on_reciprocal = on___rdiv__ = on___rtruediv__ = on_rsqrt

    def on_square(self, func: Any, x: Tensor) -> Any:
        """Pass all relevance to the argument."""
        return self.activation(func, x)

    on_sqrt = on_square

    def on_pow(self, func: Any, x: Any, exponent: Any) -> Any:
        """Pass all relevance to the argument; a negative power is a divisor."""
        if isinstance(exponent, Tensor) or not isinstance(x, Tensor):
            self.raise_unsupported("computes an exponent as a tensor")
        if exponent < 0:
            return func(x.detach(), exponent)
        return self.activation(lambda x: func(x, exponent), x)

    on___pow__ = on_pow

    def on_normalize(
        self, func: Any, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None
    ) -> Any:
        """Treat the norm as constant."""
        return with_derivative(
            lambda x: func(x, p, dim, eps),
            lambda gradient, x: (normalize_rule(gradient, x, p, dim, eps),),
            input,
        )

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
        if depends_on_image(weight) or depends_on_image(bias):
            self.raise_unsupported("computes weights from the image")
        if not gamma:
            return operation(x, weight, bias)

        def value(x: Tensor) -> Any:
            # `.data`, because autograd forbids in-place changes of a view that a custom function returns.
            return operation(x, weight, bias).data

        def rule(gradient: Tensor, output: Tensor, x: Tensor) -> tuple[Tensor]:
            return (gamma_rule(gradient, x, weight, bias, gamma, operation, output),)

        return with_derivative_of_output(value, rule, x)

    def on_layer_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Any:
        """Treat the standard deviation as constant."""
        return with_derivative(
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
        """Treat the root mean square as constant."""
        return with_derivative(
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
        """Treat the standard deviations as constant."""
        return with_derivative(
            lambda x: func(x, num_groups, weight, bias, eps),
            lambda gradient, x: (group_norm_rule(gradient, x, num_groups, weight, eps),),
            input,
        )

    def on_batch_norm(self, func: Any, input: Tensor, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        """Keep the derivative, which in evaluation is that of a constant scale."""
        if training or any(isinstance(argument, bool) and argument for argument in args):
            self.raise_unsupported("normalizes by the statistics of the batch")
        return func(input, *args, training=training, **kwargs)
