"""Mask the tokens of some patches in all attention of a model.

Masking a token as a key is the same as removing it if the output is read from other tokens (a class token, or an
attention pooling head); a test verifies this. If the output is an average of tokens, masked ones are left out of it
too, see `token_average`. It only needs the model's calls of scaled dot-product attention, and images with different
patches removed can share a batch. Position and rotary embeddings of the other tokens do not change.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.multihead import attend
from vit_interactions.attention.observe import Observation
from vit_interactions.attention.sdpa import SDPA, read_sdpa
from vit_interactions.attention.token_average import averaged_axis, forget_masked, mean_of_shown
from vit_interactions.functional.window_free import window_free_attention

ADVICE = "Remove pixels instead: `insertion` and `deletion`, or captum's occlusion."


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


class TokenMasking(TorchFunctionMode):
    """A mode that masks tokens in every call of scaled dot-product attention, for one forward pass.

    Example:
        >>> import timm
        >>> from vit_interactions.attention.observe import observe
        >>> model, image = timm.create_model("test_vit").eval(), torch.zeros(1, 3, 160, 160)
        >>> shown = torch.arange(100).lt(50).unsqueeze(0)
        >>> with TokenMasking(shown, observe(model, image, None, lambda *_: None), "test_vit") as masking:
        ...     scores = model(image)
        >>> masking.finish(scores)
    """

    def __init__(self, shown: Tensor, seen: Observation, name: str) -> None:
        """Create the mode for one forward pass.

        Args:
            shown: (images, patches) bool, on the model's device; False for patches to mask.
            seen: a pass of the model without masks.
            name: name of the model in messages.
        """
        super().__init__()
        self.shown, self.layout, self._name = shown, seen.layout, name
        self._layers = seen.record.seen  # the calls among tokens; pooling calls follow
        self._expected = self._layers + len(seen.record.pool_calls)
        shares = seen.layout.shares
        read = (
            seen.layout.readout not in ("token", "distilled", "map")
            if shares is None
            else shares[seen.layout.prefix :]
        )
        self._averages = bool(np.any(read))
        self._calls = self._means = 0

    def finish(self, scores: Tensor) -> None:
        """Check that the pass masked the tokens wherever the model reads them.

        Args:
            scores: the scores of the pass. Masked tokens of models that average tokens are NaN after the last
                attention, so scores are NaN if such a token is read in any other way.

        Raises:
            UnsupportedModelError: tokens that were read although they are masked.
            ValueError: scores that are not finite for another reason.
        """
        finite = bool(scores.isfinite().all())
        if self._calls != self._expected:
            raise UnsupportedModelError(
                f"{self._name} called scaled_dot_product_attention {self._calls} times, but its own layers attend "
                f"{self._expected} times: it contains another model, or computes attention with an explicit softmax, "
                f"so the tokens to mask are unknown. {ADVICE}"
            )
        if self._averages and not (self._means == 1 and finite):
            raise UnsupportedModelError(
                f"{self._name} does not support masked tokens: its output must read the patches by one `mean` of the "
                f"tokens, but it averages them {self._means} times after its last attention"
                f"{'' if finite else ', and reads tokens that are masked'}. {ADVICE}"
            )
        if not finite:
            raise ValueError("the model's output for masked tokens is not finite.")

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
        self._calls += 1
        given = read_sdpa(*args, **kwargs)
        output = F.scaled_dot_product_attention(
            given.query,
            given.key,
            given.value,
            mask_keys(given, self._shown_keys(given)),
            given.dropout,
            scale=given.scale,
        )
        # The last call may be of a pooling head whose result is not used; its one query has no masked tokens.
        if self._averages and self._calls == self._layers and output.shape[-2] >= self.layout.patches:
            return forget_masked(output, self._rows(output.shape[-2]))
        return output

    def _average(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function other than attention; if it averages the tokens for the output, average only those shown."""
        values = averaged_axis(func, args, kwargs) if self._averages and self._calls >= self._layers else None
        sizes = (self.layout.patches, self.layout.tokens)
        if values is None or len(values) != len(self.shown) or values.shape[1] not in sizes:
            return func(*args, **kwargs)
        self._means += 1
        mean = mean_of_shown(values, self._rows(values.shape[1]))
        keepdim = kwargs.get("keepdim", len(args) > 2 and args[2])
        return mean if keepdim else mean.squeeze(1)

    def _rows(self, tokens: int) -> Tensor:
        """Return which of all tokens, or of the patches, are shown in the model's order: (batch, tokens) bool."""
        rows = F.pad(self.shown, (tokens - self.layout.patches, 0), value=True)
        return rows.index_copy(1, self.layout.places(tokens).to(rows.device), rows)

    def _shown_keys(self, given: SDPA) -> Tensor:
        """Return which keys of a call are shown, (batch, keys) bool."""
        keys = given.key.shape[-2]
        if given.is_causal or keys not in (self.layout.tokens, self.layout.patches):
            raise UnsupportedModelError(
                f"a layer attends {'causally ' if given.is_causal else ''}to {keys} keys, but the image has "
                f"{self.layout.tokens} tokens, so the keys of the patches are unknown. {ADVICE}"
            )
        shown = self._rows(keys)
        if self._averages:
            # Without any token, attention does not matter: the average is 0.
            return shown | ~shown.any(1, keepdim=True)
        if not shown.any(1).all():
            raise UnsupportedModelError(
                f"the model attends only to patches, so no token is left to attend to if all are masked. {ADVICE}"
            )
        return shown
