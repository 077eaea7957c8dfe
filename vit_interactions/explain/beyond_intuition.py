"""Beyond Intuition (BI): relevance through attention that is weighted per head or corrected per token.

Source: Chen et al., "Beyond Intuition: Rethinking Token Attributions inside Transformers", TMLR 2023.
Readouts other than the class token and the mean of the patches are an extension of this library.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.module_inputs import ModuleInput, module_inputs
from vit_interactions.attention.observe import Backtrace
from vit_interactions.attention.probe import probe
from vit_interactions.attention.record import AttentionCall
from vit_interactions.explain.attention_path import PathExplainer, read_tokens
from vit_interactions.functional.beyond_intuition import fuse_by_head, fuse_by_token, relevance_rows
from vit_interactions.utilities.checks import check_choice

Variant = Literal["head", "token"]
STARTS: dict[Variant, int] = {"head": 4, "token": 6}
PROJECTIONS = ("proj", "o_proj", "out_proj")

Seen = dict[nn.Module, list[ModuleInput]]


class BeyondIntuition(PathExplainer):
    """Relevance through the blocks, times how much the last attention raises the score.

    Blocks counted 1..L, G_l = ∂s/∂A_l, V_l with its heads concatenated, X_{l-1} the block's input:

        head:  Â_l = Σ_h b_h A_{l,h},  b_h = mean_ij |(A_{l,h}ᵀ G_{l,h})_ij| / Σ_h' (the same of h')
        token: Â_l = mean_h(A_{l,h}) diag(‖V_l W_oᵀ‖ / ‖X_{l-1}‖), norms of rows
        R = (I + Â_L) ··· (I + Â_start)
        W = mean_h max(1/m Σ_k ∂s/∂A_L(k/(m-1) x), 0),  map = pᵀ (W * R)

    p is the readout: the class token, or the mean of the patches. Using the rows of other prefix tokens that the model
    reads (distillation token, pooling head) is an extension of this library. The identity stays in R, as published: W
    weights it, so it adds no constant. Values are ≥ 0 and proportional to the score.

    Cost: `steps` forward passes; one backward pass to the block `start` for "head"; and for every other step, or all
    steps for "token", a backward pass that ends at the last block's attention.

    Example:
        >>> import timm, torch
        >>> explainer = BeyondIntuition(timm.create_model("test_vit"), variant="token", steps=2)
        >>> explainer.patch_map(torch.ones(1, 3, 160, 160), target=7).shape
        torch.Size([1, 10, 10])
    """

    quantity = "relevance × integrated gradient"
    source = "Chen et al., Beyond Intuition: Rethinking Token Attributions inside Transformers, TMLR 2023"

    def __init__(
        self, model: nn.Module, variant: Variant = "head", steps: int = 20, start: int | None = None
    ) -> None:
        """Create the explainer.

        Args:
            model: any ViT. The token-wise variant needs pre-norm blocks (`norm1`) whose attention goes straight
                into an output projection (`proj`, `o_proj` or `out_proj`).
            variant: "head" or "token".
            steps: points m of the path from the zero image to the image, both included; 1 takes the gradient at
                the image itself, without integration.
            start: the first block used, counted from 1; None is the authors' choice, 4 for "head" and 6 for "token",
                or the last block of a model with fewer.

        Raises:
            ValueError: an option outside its range; when explaining, a model with fewer than `start` blocks.
        """
        super().__init__(model, steps)
        check_choice("variant", variant, tuple(STARTS))
        if start is not None and start < 1:
            raise ValueError(f"`start` must be >= 1, got {start}.")
        self.variant = variant
        self.start = start

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        # The token-wise variant hooks modules.
        own = self if self.variant == "head" else self._on_copy()
        return own._weighted(inputs, target, additional_forward_args)

    def _weighted(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        probe(self.model, inputs, additional_forward_args)  # before the hooks, which must not see the probe's pass
        first = -1 if self.variant == "token" else (self.start or STARTS["head"]) - 1
        with module_inputs(self._watched()) as seen:
            trace = self._backtrace(inputs, target, additional_forward_args, first)
        blocks = len(trace.record.calls)
        start = min(STARTS[self.variant], blocks) if self.start is None else self.start
        if blocks < start:
            raise ValueError(f"`start` must be <= {blocks}, the model's blocks, got {start}.")
        with torch.no_grad():
            readout = trace.readout()
            rows = read_tokens(readout)
            relevance = relevance_rows(self._fused(trace, seen, blocks - start + 1), rows)
        weights = self._path_gradient(trace, inputs, target, additional_forward_args, rows)
        shares = readout[:, rows].to(weights.dtype).unsqueeze(2)
        return (shares * weights * relevance).sum(1)[:, trace.layout.prefix :], trace.layout

    def _fused(self, trace: Backtrace, seen: Seen, count: int) -> Iterator[Tensor]:
        """Yield Â of the last `count` blocks, from the last on."""
        if self.variant == "head":
            for layer in islice(trace.layers_from_the_top(), count):
                yield fuse_by_head(layer.attention(), layer.gradient())
            return
        for call in islice(reversed(trace.record.calls), count):
            projection, state = self._projection(call, seen), self._block_input(call, seen)
            yield fuse_by_token(call.attention(), call.value, projection, state)

    def _watched(self) -> Iterator[nn.Module]:
        """Yield the modules whose inputs the token-wise variant needs."""
        if self.variant == "head":
            return
        for module in self.model.modules():
            if isinstance(norm := getattr(module, "norm1", None), nn.Module):
                yield from (module, norm)
            yield from _projections(module)

    def _projection(self, call: AttentionCall, seen: Seen) -> Tensor:
        """Return W_o of the attention that made a call."""
        joined = call.output.reshape(*call.query.shape[:-1], -1).transpose(1, 2).flatten(2)
        for linear in _projections(self.model.get_submodule(call.name)):
            given = _only_tensor(seen[linear])
            if (
                given is not None
                and given.shape == joined.shape
                and torch.equal(_in_order_of(call, given), joined)
            ):
                return linear.weight
        raise UnsupportedModelError(
            f"`{call.name}` does not pass its attention's output directly to a linear layer named "
            f"{' or '.join(f'`{name}`' for name in PROJECTIONS)} (it may normalize or gate it, or have no "
            'such layer), so the token-wise variant cannot be computed. Use `variant="head"`.'
        )

    def _block_input(self, call: AttentionCall, seen: Seen) -> Tensor:
        """Return X of the block around the attention that made a call."""
        name = call.name.rpartition(".")[0]
        block = self.model.get_submodule(name)
        given = _only_tensor(seen.get(block, []))
        # A post-norm block passes something else to `norm1`.
        if given is None or given is not _only_tensor(seen[block.get_submodule("norm1")]):
            raise UnsupportedModelError(
                f"`{name or type(self.model).__name__}`, which contains `{call.name}`, does not normalize its input "
                "with `norm1` first, so the token-wise variant cannot be computed. Use "
                '`variant="head"`.'
            )
        return _in_order_of(call, given)


def _in_order_of(call: AttentionCall, tokens: Tensor) -> Tensor:
    """Arrange the model's tokens (batch, tokens, channels) in the order of a call's."""
    return tokens if call.order is None else tokens[:, call.order]


def _projections(module: nn.Module) -> Iterator[nn.Linear]:
    for name in PROJECTIONS:
        if isinstance(linear := getattr(module, name, None), nn.Linear):
            yield linear


def _only_tensor(calls: list[ModuleInput]) -> Tensor | None:
    """Return the first argument of a module that was called once."""
    if len(calls) == 1 and calls[0].args and isinstance(calls[0].args[0], Tensor):
        return calls[0].args[0]
    return None
