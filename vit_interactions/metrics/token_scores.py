"""Scores of images in which the tokens of some patches are masked in all attention.

Masking a token as a key is the same as removing it if the output is read from other tokens (a class token, or an
attention pooling head); a test verifies this. If the output is an average of tokens, masked ones are left out of it
too, see `token_average`. It only needs the model's calls of scaled dot-product attention, and images with different
patches removed can share a batch. Position and rotary embeddings of the other tokens do not change.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.multihead import attend
from vit_interactions.attention.observe import observe
from vit_interactions.attention.readable import readable
from vit_interactions.attention.sdpa import SDPA, read_sdpa
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.functional.window_free import window_free_attention
from vit_interactions.metrics.class_score import cached_scores, unchecked_score
from vit_interactions.metrics.metric import Case
from vit_interactions.metrics.token_average import averaged_axis, forget_masked, mean_of_shown

ADVICE = "Use `insertion` and `deletion`, which remove pixels."


class _Structure(NamedTuple):
    """How a model reads its tokens: its attention calls, those among tokens, and whether it averages patches."""

    calls: int
    layers: int
    averages: bool


def token_scores(case: Case, shown: Tensor) -> Tensor:
    """Compute the score of the target class with the tokens of some patches masked.

    Args:
        case: case with the image and the model.
        shown: (images, rows, cols) bool.

    Returns:
        (images,) float64.

    Raises:
        UnsupportedModelError: attention that cannot be read or is not among all tokens; an output read from the patches
            in another way than by one average; no token left to attend to.
    """
    structure = _check(case)
    _ = case.link  # may run the model, so before tokens are masked

    def score(shown: Tensor) -> Tensor:
        repeated = case.inputs.expand(len(shown), -1, -1, -1)
        with (
            readable(unwrap(case.model)),
            _Masking(shown.flatten(1).to(case.inputs.device), case.layout, structure) as masking,
        ):
            scores = unchecked_score(case, repeated)
        if masking.calls != structure.calls:
            raise UnsupportedModelError(
                f"{type(unwrap(case.model)).__name__} called scaled_dot_product_attention {masking.calls} times, but "
                f"its own layers attend {structure.calls} times: it contains another model, or computes attention with "
                f"an explicit softmax, so the tokens to mask are unknown. {ADVICE}"
            )
        finite = bool(scores.isfinite().all())
        if structure.averages and not (masking.averages == 1 and finite):
            raise UnsupportedModelError(
                "`token_insertion` and `token_deletion` support models whose output reads the patches by one `mean` of "
                f"the tokens, but {type(unwrap(case.model)).__name__} averages them {masking.averages} times after its "
                f"last attention{', and reads tokens that are masked' if not finite else ''}. {ADVICE}"
            )
        if not finite:
            raise ValueError("the model's output for a perturbed image is not finite.")
        return scores

    return cached_scores(case, "tokens", shown, score)


def mask_keys(given: SDPA, shown: Tensor) -> Tensor:
    """Combine the mask of a call with a mask of its keys.

    Args:
        given: the call; its batch axis may include the heads.
        shown: (batch, keys) bool, False for keys that are masked.

    Returns:
        A mask for `scaled_dot_product_attention`, bool or additive like the mask of the call.
    """
    keep = shown.repeat_interleave(given.query.shape[0] // len(shown), 0).unsqueeze(1)
    keep = keep if given.query.ndim == 3 else keep.unsqueeze(1)
    if given.mask is None:
        return keep
    return given.mask & keep if given.mask.dtype == torch.bool else given.mask.masked_fill(~keep, float("-inf"))


def _check(case: Case) -> _Structure:
    """Return how the model reads its tokens; raise an error if masking a token does not remove it."""
    model = unwrap(case.model)
    seen = observe(model, case.inputs, None, lambda call, layout: None)
    layout, record = seen.layout, seen.record
    if layout.order is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not order its patches row by row, so the tokens to mask are unknown. {ADVICE}"
        )
    only_prefix = layout.shares is not None and not any(layout.shares[layout.prefix :])
    averages = layout.readout in ("avg", "token_avg", "other") and not only_prefix
    return _Structure(record.seen + len(record.pool_calls), record.seen, averages)


class _Masking(TorchFunctionMode):
    """A mode that masks tokens in every call of scaled dot-product attention, and in the average of tokens."""

    def __init__(self, shown: Tensor, layout: TokenLayout, structure: _Structure) -> None:
        super().__init__()
        self.shown, self.layout, self.structure = shown, layout, structure
        self.calls = self.averages = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return attend(self, "MultiheadAttention", args, kwargs)
        if func is window_free_attention:
            raise UnsupportedModelError(
                "window-free attention computes its windows from all patches, including masked ones, so masking a "
                f"token does not remove it. {ADVICE}"
            )
        if func is not F.scaled_dot_product_attention:
            return self._average(func, args, kwargs)
        self.calls += 1
        given = read_sdpa(*args, **kwargs)
        shown = self._shown_keys(given)
        output = F.scaled_dot_product_attention(
            given.query,
            given.key,
            given.value,
            mask_keys(given, shown),
            given.dropout,
            scale=given.scale,
        )
        if not self.structure.averages or self.calls != self.structure.layers:
            return output
        own = F.pad(self.shown, (output.shape[-2] - self.layout.patches, 0), value=True)
        return forget_masked(output, own)

    def _average(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that is no attention; if it averages the tokens for the output, average those shown."""
        behind = self.structure.averages and self.calls >= self.structure.layers
        values = averaged_axis(func, args, kwargs) if behind else None
        if values is None or values.shape[:2] not in (
            (len(self.shown), self.layout.patches),
            (len(self.shown), self.layout.tokens),
        ):
            return func(*args, **kwargs)
        self.averages += 1
        mean = mean_of_shown(values, self.shown)
        keepdim = kwargs.get("keepdim", len(args) > 2 and args[2])
        return mean if keepdim else mean.squeeze(1)

    def _shown_keys(self, given: SDPA) -> Tensor:
        """Return which keys of a call are shown, (batch, keys) bool."""
        keys = given.key.shape[-2]
        if given.is_causal or keys not in (self.layout.tokens, self.layout.patches):
            raise UnsupportedModelError(
                f"a layer attends {'causally ' if given.is_causal else ''}to {keys} keys, but the image has "
                f"{self.layout.tokens} tokens, so the keys of the patches are unknown. {ADVICE}"
            )
        shown = F.pad(self.shown, (keys - self.layout.patches, 0), value=True)
        if self.structure.averages:
            # Without any token, attention does not matter: the average is 0.
            return shown | ~shown.any(1, keepdim=True)
        if not shown.any(1).all():
            raise UnsupportedModelError(
                f"the model attends only to patches, so no token is left to attend to if all are masked. {ADVICE}"
            )
        return shown
