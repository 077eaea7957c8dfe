"""Probabilities of images of which some patches' tokens are hidden from all attention.

Hiding a token as a key is removing it, wherever the answer is read from tokens that are left (a class token, or an
attention-pooling head): nothing of it reaches them any more. It needs no knowledge of the model's insides but its calls
of scaled dot-product attention, and images with different patches removed go through the model in one batch. That it
equals dropping the tokens is a test. Position tables and rotary embeddings stay those of the tokens' own places.
"""

from typing import Any

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
from vit_interactions.metrics.class_score import class_score, remembered
from vit_interactions.metrics.metric import Case


def token_scores(case: Case, shown: Tensor) -> Tensor:
    """Compute the score of the target for the photograph with some patches' tokens hidden.

    Args:
        case: whose photograph and model these are.
        shown: (images, rows, cols) bool.

    Returns:
        (images,) float64.

    Raises:
        UnsupportedModelError: attention that cannot be seen or is not among all tokens; an answer read from the mean of
            tokens, of which hidden ones stay a part; nothing left to attend to.
    """
    calls = _check(case)
    _ = case.link  # which may run the model, before tokens are hidden

    def ask(shown: Tensor) -> Tensor:
        repeated = case.inputs.expand(len(shown), -1, -1, -1)
        with readable(unwrap(case.model)), _Hiding(shown.flatten(1).to(case.inputs.device), case.layout) as hiding:
            scores = class_score(case, repeated)
        if hiding.calls != calls:
            raise UnsupportedModelError(
                f"{type(unwrap(case.model)).__name__} made {hiding.calls} calls of scaled_dot_product_attention where "
                f"its own layers attend {calls} times: it runs another model inside, or attends by an explicit "
                "softmax, so that it cannot be told which tokens to hide. Use insertion and deletion of pixels."
            )
        return scores

    return remembered(case, "tokens", shown, ask)


def hide_keys(given: SDPA, shown: Tensor) -> Tensor:
    """Add to the mask of a call that some keys are not attended to.

    Args:
        given: the call, of which the batch may be folded with the heads.
        shown: (batch, keys) bool.

    Returns:
        A mask for `scaled_dot_product_attention`, bool or added to the scores like the call's own.
    """
    keep = shown.repeat_interleave(given.query.shape[0] // len(shown), 0).unsqueeze(1)
    keep = keep if given.query.ndim == 3 else keep.unsqueeze(1)
    if given.mask is None:
        return keep
    return given.mask & keep if given.mask.dtype == torch.bool else given.mask.masked_fill(~keep, float("-inf"))


def _check(case: Case) -> int:
    """Refuse models in which hiding is not removing; return how many calls of attention a forward pass makes."""
    model = unwrap(case.model)
    seen = observe(model, case.inputs, None, lambda call, layout: None)
    layout, record = seen.layout, seen.record
    if layout.readout in ("avg", "token_avg"):
        raise UnsupportedModelError(
            f"{type(model).__name__} reads its answer from the mean of its tokens, of which one that is hidden from "
            "attention stays a part. Use insertion and deletion of pixels."
        )
    if layout.order is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has its patches in another order than row by row, so that it cannot be told which "
            "tokens to hide. Use insertion and deletion of pixels."
        )
    return record.seen + len(record.pool_calls)


class _Hiding(TorchFunctionMode):
    """Hides tokens from every call of scaled dot-product attention."""

    def __init__(self, shown: Tensor, layout: TokenLayout) -> None:
        super().__init__()
        self.shown, self.layout, self.calls = shown, layout, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return attend(self, "MultiheadAttention", args, kwargs)
        if func is window_free_attention:
            raise UnsupportedModelError(
                "window-free attention finds its windows among all patches, the hidden ones too, so that hiding a "
                "token does not remove it. Use insertion and deletion of pixels."
            )
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls += 1
        given = read_sdpa(*args, **kwargs)
        return F.scaled_dot_product_attention(
            given.query,
            given.key,
            given.value,
            hide_keys(given, self._keys(given)),
            given.dropout,
            scale=given.scale,
        )

    def _keys(self, given: SDPA) -> Tensor:
        """Which keys of a call are shown, (batch, keys)."""
        keys = given.key.shape[-2]
        if given.is_causal or keys not in (self.layout.tokens, self.layout.patches):
            raise UnsupportedModelError(
                f"a layer attends {'causally ' if given.is_causal else ''}to {keys} keys, where the image has "
                f"{self.layout.tokens} tokens, so that it cannot be told which are the patches. Use insertion and "
                "deletion of pixels."
            )
        shown = F.pad(self.shown, (keys - self.layout.patches, 0), value=True)
        if not shown.any(1).all():
            raise UnsupportedModelError(
                "the model attends to patches only, so that nothing is left to attend to once all are hidden. Use "
                "insertion and deletion of pixels."
            )
        return shown
