"""Every option can be typed, and reads its type from the constructor."""

from typing import Any

import pytest
from torch import nn

import vit_interactions as vi
from tests.helpers.explaining import small_vit
from vit_interactions.explain.configured import parse_method
from vit_interactions.explain.options import READERS, options_of
from vit_interactions.explain.registry import all_methods


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_vit()


EVERY_OPTION = [(name, option) for name, kind in all_methods().items() for option in options_of(kind).values()]


@pytest.mark.parametrize(
    ("name", "option"), EVERY_OPTION, ids=[f"{name}:{each.name}" for name, each in EVERY_OPTION]
)
def test_every_choice_and_default_of_every_method_can_be_typed(name: str, option: Any, model: nn.Module) -> None:
    choices = [each for each in option.allowed if each not in READERS]
    for value in (*choices, option.default):
        method = parse_method(f"{name}:{option.name}={value}")
        assert method.options == {option.name: value}
        assert parse_method(f"{name}:{option.name}={str(value).lower()}").options == {option.name: value}
        if choices:
            assert getattr(method.create(model), option.name) == value


def test_options_without_annotations_have_the_types_of_their_defaults() -> None:
    class Plain(vi.RawAttention):
        def __init__(self, model, scale=2.0, deep=True, **more):  # type: ignore[no-untyped-def]
            super().__init__(model)

    assert " ".join(map(str, options_of(Plain).values())) == "scale=2.0 deep=true"
    assert options_of(Plain)["scale"].parse("3", "plain") == 3.0
