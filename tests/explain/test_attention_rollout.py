"""Attention rollout against products of whole matrices."""

from typing import Any

import pytest
import torch

from tests.helpers import references
from tests.helpers.explaining import observed
from tests.helpers.families import Family
from vit_interactions import (
    AttentionRollout,
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": "max"},
        {"fusion": "min"},
        {"discard": 0.3},
        {"alpha": 0.0},
        {"alpha": 2.5},
        {"start_layer": 1},
        {"fusion": "max", "discard": 0.5, "alpha": 0.5},
    ],
    ids=str,
)
def test_rollout_is_the_product_of_whole_matrices(family: Family, options: dict[str, Any]) -> None:
    model, inputs, attentions, readout = observed(family)
    has_class_token = family.readout in ("token", "distilled")
    fused = []
    for attention in attentions[options.get("start_layer", 0) :]:
        heads = attention.unbind(1)
        matrix = {
            "mean": lambda heads=heads: sum(heads) / len(heads),
            "max": lambda heads=heads: torch.stack(heads).max(0).values,
            "min": lambda heads=heads: torch.stack(heads).min(0).values,
        }[options.get("fusion", "mean")]().clone()
        for b in range(2):
            flat = matrix[b].view(-1)
            order = sorted(range(len(flat)), key=lambda i: flat[i].item())
            for i in order[: int(options.get("discard", 0.0) * len(flat))]:
                if i or not has_class_token:
                    flat[i] = 0.0
        fused.append(matrix)
    whole = references.rollout(fused, options.get("alpha", 1.0))
    expected = (readout.unsqueeze(1) @ whole).squeeze(1)[:, family.prefix :]
    result = AttentionRollout(model, **options).patch_map(inputs).flatten(1)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-6)
