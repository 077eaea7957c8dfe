"""Measure implementations of softmax((Q Kᵀ · scale) ∗ W) V, relative to plain fused attention.

    python tests/benchmarks/window_free_forms.py [--device cuda]

`flex` is torch's compiled `flex_attention` with a score function that looks up the window; it has no backward pass on
the CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from vit_interactions.functional.window_free import token_window, window_free_logits, window_free_mask

ROUNDS = 9
SHAPES = {"ViT-B/16 at 224, batch 4": (4, 12, 197, 64), "ViT-B/16 at 384, batch 1": (1, 12, 577, 64)}


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    return (query * query.shape[-1] ** -0.5) @ key.mT


def product(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    return (scores_of(query, key) * window).softmax(-1) @ value


def filled(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    return scores_of(query, key).masked_fill(~window, 0.0).softmax(-1) @ value


def biased(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    """Compute fused attention with a bias that cancels the scores outside the window."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=-scores_of(query, key) * ~window)


def doubled(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    """Compute fused attention with an additional zero key for each key, used outside the window."""
    keys, values = F.pad(key, (0, 0, 0, key.shape[-2])), torch.cat((value, value), -2)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=torch.cat((window, ~window), -1))


compiled = torch.compile(flex_attention, dynamic=False)


def flex(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    inside = window[:, 0]

    def score(found: Tensor, batch: Tensor, head: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return torch.where(inside[batch, row, col], found, 0.0)

    result: Tensor = compiled(query, key, value, score_mod=score)  # type: ignore
    return result


def masked(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    """Compute the alternative reading, with -inf outside the window."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=window)


def plain(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def find_windows(query: Tensor, key: Tensor, value: Tensor, window: Tensor) -> Tensor:
    logits = window_free_logits(query[:, :, 1:], key[:, :, 1:])
    return logits + token_window(window_free_mask(logits), 0).squeeze(1)


FORMS = (plain, masked, product, filled, biased, doubled, flex, find_windows)


def seconds(form: Callable[..., Tensor], parts: list[Tensor], backward: bool) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = form(*parts)
        if backward:
            output.sum().backward()
    if output.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        query, key, value = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
        window = torch.rand(shape[0], 1, shape[2], shape[2], device=device) > 0.55
        parts = [query, key, value, window]
        with torch.no_grad():
            for form in (filled, biased, doubled, flex):
                torch.testing.assert_close(form(*parts), product(*parts), atol=1e-3, rtol=1e-3)
        for backward in (False, True):
            forms = [form for form in FORMS if not (form is flex and backward and device == "cpu")]
            times = {form: [] for form in forms}
            for counted in range(-1, ROUNDS):
                for form in forms:
                    took = seconds(form, parts, backward)
                    if counted >= 0:
                        times[form].append(took)
            medians = {form: statistics.median(found) for form, found in times.items()}
            print(f"{name}, {'forward and backward' if backward else 'forward'}:", end=" ")
            print(", ".join(f"{form.__name__} {medians[form] / medians[plain]:.2f}" for form in forms))


if __name__ == "__main__":
    main()
