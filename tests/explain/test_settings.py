"""Settings give their values to options that are not set."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

import vit_interactions as vi
from tests.helpers.explaining import small_vit
from vit_interactions.explain.configured import configure
from vit_interactions.explain.settings import Settings


def test_a_run_sets_options_that_are_not_given() -> None:
    class Subclass(vi.ResponsiveFieldSize):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model, alpha=0.5)

    methods = {
        "field": "responsive_field_size",
        "own": "responsive_field_size:alpha=0.2",
        "partial": partial(vi.ResponsiveFieldTendency, beta=0.4),
        "fixed": Subclass,
        "rollout": "attention_rollout",
        "daam": "dynamic_accumulated_attention",
        "daam of class tokens": "dynamic_accumulated_attention:readout=class_token",
    }
    settings = Settings("vit", methods=configure(methods), alpha=0.05, beta=0.3, coverage=0.9, exclude_sinks=True)
    assert {method.name: method.options for method in settings.methods} == {
        "field": {"alpha": 0.05, "beta": 0.3, "coverage": 0.9, "exclude_sinks": True},
        "own": {"alpha": 0.2, "beta": 0.3, "coverage": 0.9, "exclude_sinks": True},
        "partial": {"alpha": 0.05, "beta": 0.4, "coverage": 0.9, "exclude_sinks": True},
        "fixed": {},
        "rollout": {"exclude_sinks": True},  # whose alpha is another one
        "daam": {"readout": "model"},
        "daam of class tokens": {"readout": "class_token"},
    }
    made = configure({"x": lambda model: vi.ResponsiveFieldSize(model, alpha=0.4)}, small_vit())
    (kept,) = Settings("vit", methods=made, alpha=0.05).methods
    assert kept.options == {"alpha": 0.4, "beta": 0.2, "coverage": 1.0, "exclude_sinks": False}


def test_options_follow_the_run_by_the_declarations_of_their_class() -> None:
    class Own(vi.RawAttention):
        run_settings = ("beta", "target")
        run_defaults: ClassVar[Mapping[str, Any]] = {"width": 3, "not an option": 1}

        def __init__(self, model: nn.Module, alpha: float = 0.5, beta: float = 0.5, width: int = 1) -> None:
            super().__init__(model)

    methods = configure({"plain": Own, "set": partial(Own, beta=0.1, width=2)})
    options = [method.options for method in Settings("vit", methods=methods, alpha=0.05, beta=0.3).methods]
    assert options == [{"beta": 0.3, "width": 3}, {"beta": 0.1, "width": 2}]
