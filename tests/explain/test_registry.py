"""Tests of the table of explainers."""

from vit_interactions import (
    EXPLAINERS,
)


def test_names_are_the_class_names_in_snake_case() -> None:
    for name, explainer in EXPLAINERS.items():
        assert name.replace("_", "") == explainer.__name__.lower()
        assert name == name.lower()
    assert set(EXPLAINERS) >= {
        "interaction_uncertainty",
        "responsive_field_size",
        "responsive_field_tendency",
        "indiscriminative_patches",
        "raw_attention",
        "attention_rollout",
    }
