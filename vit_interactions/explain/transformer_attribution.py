"""Transformer attribution: relevance times gradient at every attention matrix, accumulated through the layers.

Source: Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021. This library's
additions: relevance sums are kept for each image by itself; LayerScale and query-key normalization pass relevance
unchanged; readouts other than the class token; masks and position biases, which get no relevance.

Relevance is divided by sums that cancel (a + b of a residual sum, q · k of an attention score). Where such a sum is
near 0, the rounding of a float32 forward pass decides its share, so relevance is followed in float64 from the image on.
The rule of linear layers divides by sums of positive numbers, which do not cancel. Its four matrix products, most of
the work, keep the precision of the weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.observe import Backtrace, observe_gradients
from vit_interactions.attention.sdpa import read_sdpa
from vit_interactions.explain.generic_attention import GenericAttention
from vit_interactions.explain.relevance_mode import (
    REARRANGEMENTS,
    RelevanceMode,
    depends_on_image,
    map_nested,
    operation_name,
    scaled_gradient,
    with_derivative,
)
from vit_interactions.explain.targets import select_target
from vit_interactions.functional.attention import without_autocast
from vit_interactions.functional.relevance import (
    attention_relevance,
    bilinear_relevance,
    linear_relevance,
    mean_relevance,
    product_relevance,
    sum_relevance,
)

# Methods that convert to the floating-point type in their name.
CASTS = frozenset({"bfloat16", "double", "float", "half"})


class TransformerAttribution(GenericAttention):
    """Relevance accumulated through the layers by E_l = mean over heads of max(G_l * R_l, 0).

    G_l is the gradient at the attention of layer l, R_l its relevance by layer-wise propagation from the target. The
    map is the readout's row of (I + E_L) ··· (I + E_start) - I. The relevance is followed through the unchanged
    model; anything other than a plain ViT raises an error.

    Example:
        >>> import timm, torch
        >>> explainer = TransformerAttribution(timm.create_model("test_vit"))
        >>> (explainer.patch_map(torch.rand(1, 3, 160, 160), target=3) >= 0).all()
        tensor(True)
    """

    forwards = 2
    backwards = 2
    quantity = "relevance"
    source = "Chefer, Gur and Wolf, Transformer Interpretability Beyond Attention Visualization, CVPR 2021"

    def __init__(self, model: nn.Module, start_layer: int = 0) -> None:
        """Create the explainer.

        Args:
            model: a ViT of linear layers, layer norms, activations, residual sums and attention.
            start_layer: see `GenericAttention`.

        Raises:
            ValueError: see `GenericAttention`.
        """
        super().__init__(model, start_layer)

    def _evidence(
        self, seen: Backtrace, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> Iterator[Tensor]:
        """Compute the relevance of each attention in float64: the rules divide by sums near 0."""
        dtype = torch.float32 if inputs.is_mps else torch.float64  # MPS has no float64
        found = self._relevance(inputs, target, additional_forward_args, dtype)
        return _evidence(found, seen.readout().dtype)

    def _relevance(
        self, inputs: Tensor, target: Any, additional_forward_args: Any, dtype: torch.dtype = torch.float64
    ) -> Backtrace:
        """Run the model forward and backward under the rules: the "gradients" at z are its relevances."""
        model = evaluated(self.model)
        rules = RelevanceRules(model, dtype)

        def score(output: Any) -> Tensor:
            scores = select_target(output, target, len(inputs))
            rules.check_graph(scores)
            return scores

        with without_autocast(inputs):
            return observe_gradients(model, inputs, additional_forward_args, score, rules)


def _evidence(found: Backtrace, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the relevance of each attention (batch, heads, tokens, tokens), from the top."""
    for layer in found.layers_from_the_top():
        relevance, _ = product_relevance(layer.output_gradient, layer.attention(), layer.call.value)
        yield relevance.to(dtype)


class RelevanceRules(RelevanceMode):
    """The rules of transformer attribution, from the first attention on; earlier operations pass no relevance.

    Attributes:
        following: whether the rules are active. The first attention activates them.
        dtype: the floating-point type that everything else is computed in, whatever the model's own.
        product_dtype: that of the products in the rule of linear layers: the weights' own, at least float32.
    """

    method = "TransformerAttribution"
    kept = REARRANGEMENTS | {"masked_fill"}

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float64) -> None:
        """Create the mode; it starts at the first attention."""
        super().__init__(model)
        self.following = False
        self.dtype = dtype
        floating = (p.dtype for p in model.parameters() if p.is_floating_point())
        self.product_dtype = reduce(torch.promote_types, floating, torch.float32)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation_name(func)
        if name in CASTS:
            return self._widened(args[0])
        # In-place operations must write to the model's own tensor, not to a converted copy; properties compute nothing.
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        kept = int(in_place or getattr(func, "__name__", "") == "__get__")
        args = (*args[:kept], *map_nested(self._widened, args[kept:]))
        return super().__torch_function__(func, types, args, map_nested(self._widened, kwargs or {}))

    def _widened(self, value: Any) -> Any:
        """Convert a tensor or a dtype to the type of relevance; return anything else unchanged."""
        if isinstance(value, torch.dtype):
            return self.dtype if value.is_floating_point else value
        if isinstance(value, Tensor) and value.is_floating_point():
            return (value.detach() if isinstance(value, nn.Parameter) else value).to(self.dtype)
        return value

    def compute(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operation, with its rule if relevance passes through it."""
        self.following |= name in ("scaled_dot_product_attention", "window_free_attention", "softmax")
        return super().compute(name, func, args, kwargs) if self.following else func(*args, **kwargs)

    def activation(self, value: Any, x: Tensor) -> Tensor:
        """Pass relevance unchanged."""
        result: Tensor = with_derivative(value, _unchanged, x)
        return result

    def on_scaled_dot_product_attention(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Share relevance among queries, keys and values."""
        given = read_sdpa(*args, **kwargs)
        if depends_on_image(given.mask):
            self.raise_unsupported("computes a mask of its attention from the image")

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
            return replace(given, query=query, key=key, value=value).run(func)

        def rule(relevance: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
            attention = replace(given, query=query, key=key).attention()
            return attention_relevance(relevance, query, key, value, attention)

        return with_derivative(attend, rule, given.query, given.key, given.value)

    def on_softmax(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Pass relevance unchanged, as attention in one call does."""
        return with_derivative(lambda scores: func(scores, *args[1:], **kwargs), _unchanged, args[0])

    def on_matmul(self, func: Any, a: Tensor, b: Tensor) -> Any:
        """Share relevance between the factors of an attention that is written out: q kᵀ and A v."""
        return self._product(func, a, b)

    on_bmm = on_matmul

    def on_einsum(self, func: Any, equation: Any, *operands: Any) -> Any:
        """Apply the rule of `matmul`."""
        factors = operands[0] if isinstance(operands[0], (list, tuple)) else operands
        if len(factors) != 2:
            self.raise_unsupported(f"multiplies {len(factors)} tensors by `einsum`")
        return self._product(lambda a, b: func(equation, a, b), *factors)

    def _product(self, multiply: Any, a: Tensor, b: Tensor) -> Any:
        if not (depends_on_image(a) and depends_on_image(b)):
            self.raise_unsupported("multiplies by a matrix that is not computed from the image")
        return with_derivative(
            multiply, lambda relevance, a, b: bilinear_relevance(relevance, a, b, multiply), a, b
        )

    def on_linear(self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        """Share relevance among the inputs that raised the output."""
        if depends_on_image(weight) or depends_on_image(bias):
            self.raise_unsupported("computes weights from the image")

        narrow = weight.to(self.product_dtype)

        def rule(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            shared = linear_relevance(relevance.to(narrow.dtype), x.to(narrow.dtype), narrow)
            return (shared.to(self.dtype),)

        return with_derivative(lambda x: func(x, weight, bias), rule, input)

    def on_layer_norm(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pass relevance unchanged."""
        return with_derivative(lambda x: func(x, *args, **kwargs), _unchanged, input)

    on_rms_norm = on_layer_norm

    def on_add(self, func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
        """Split relevance between two branches: none for a constant, half for each of two classifier heads."""
        if not (depends_on_image(a) and depends_on_image(b)) and alpha == 1:
            return func(a, b)
        if alpha != 1 or a.shape != b.shape:
            self.raise_unsupported(
                f"adds {alpha} times a tensor of shape {tuple(b.shape)} to one of {tuple(a.shape)}"
            )
        if a.ndim == 2 and getattr(self.caller()[1], "head_dist", None) is not None:
            return func(scaled_gradient(a, 0.5), scaled_gradient(b, 0.5))
        return with_derivative(func, sum_relevance, a, b)

    def on_sigmoid(self, func: Any, x: Tensor) -> Any:
        """Treat the factor of x · sigmoid(1.702 x) as constant, so that relevance passes unchanged as in `F.gelu`."""
        if not self._in_quick_gelu():
            self.raise_unsupported("computes `sigmoid` from the image")
        return func(x).detach()

    def _in_quick_gelu(self) -> bool:
        # Recognized by name: timm, transformers and open_clip each write it in plain operations.
        return type(self.caller()[1]).__name__.startswith("QuickGELU")

    def on_mul(self, func: Any, a: Any, b: Any) -> Any:
        """Pass relevance unchanged through a constant factor per channel (LayerScale), or the gate of QuickGELU."""
        x, factor = (a, b) if depends_on_image(a) else (b, a)
        if depends_on_image(factor):
            self.raise_unsupported("multiplies two tensors that it computed from the image (a gate)")
        per_channel = not isinstance(factor, Tensor) or factor.ndim == 0 or factor.numel() == factor.shape[-1]
        if not (per_channel or self._in_quick_gelu()):
            self.raise_unsupported(
                f"multiplies each token by different factors, of shape {tuple(factor.shape)} (a rotary embedding?)"
            )
        return with_derivative(lambda x: func(x, factor), _unchanged, x)

    def on_div(self, func: Any, a: Any, b: Any) -> Any:
        """Pass relevance unchanged through a division by a number."""
        if isinstance(b, Tensor) and (depends_on_image(b) or b.numel() != 1):
            self.raise_unsupported("divides by a tensor")
        return with_derivative(lambda x: func(x, b), _unchanged, a)

    def on_mean(self, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Split relevance among the averaged tokens."""
        dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
        if not dims or any(axis % x.ndim == 0 for axis in dims):
            self.raise_unsupported("averages or sums over the batch")

        def rule(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
            total = x.sum(dims, keepdim=True)
            return (mean_relevance(relevance.reshape(total.shape), x, total),)

        return with_derivative(lambda x: func(x, dims, keepdim=keepdim, **kwargs), rule, x)

    on_sum = on_mean


def _unchanged(relevance: Tensor, x: Tensor) -> tuple[Tensor]:
    return (relevance,)
