"""Methods with options: the same explainer from text and from Python, its description, and errors."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn
from vit_interactions_adapters.captum_methods import CaptumIntegratedGradients

import vit_interactions as vi
from tests.helpers.explaining import images, small_vit
from vit_interactions.explain.configured import ConfiguredMethod, configure, parse_method
from vit_interactions.explain.options import options_of, parameters_of
from vit_interactions.explain.registry import all_methods


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_vit()


def with_layer(model: nn.Module) -> vi.Explainer:
    return vi.RawAttention(model, layer=0)


def test_options_in_text_are_those_of_the_constructor(model: nn.Module) -> None:
    configured, default = parse_method("gmar:norm=l1").create(model), parse_method("gmar").create(model)
    expected = vi.GMAR(model, norm="l1").patch_map(images(), 1)
    assert torch.equal(configured.patch_map(images(), 1), expected)
    assert torch.equal(default.patch_map(images(), 1), vi.GMAR(model).patch_map(images(), 1))
    assert not torch.equal(expected, default.patch_map(images(), 1))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("gmar", {}),
        ("gmar:norm=l1,alpha=0.5,row_norm=false", {"norm": "l1", "alpha": 0.5, "row_norm": False}),
        ("attention_rollout: fusion = max , discard=1", {"fusion": "max", "discard": 1.0}),
        ("legrad:layers=all", {"layers": "all"}),
        ("legrad:layers=-3", {"layers": -3}),
        ("attn_lrp:conv_gamma=None,linear_gamma=1e-2", {"conv_gamma": None, "linear_gamma": 0.01}),
        ("beyond_intuition:start=none,steps=3", {"start": None, "steps": 3}),
        ("gradcam:layer=blocks.0.norm1,eigen_smooth=True", {"layer": "blocks.0.norm1", "eigen_smooth": True}),
        ("gradcam:layer=a=b:c", {"layer": "a=b:c"}),
        ("gradcam:layer=none", {"layer": None}),
        ("integrated_gradients:baselines=0.5,n_steps=4", {"baselines": 0.5, "n_steps": 4}),
    ],
)
def test_values_have_the_types_of_the_annotations(text: str, options: dict[str, Any]) -> None:
    method = parse_method(text)
    assert method.name == text
    assert method.options == options
    assert {name: type(value) for name, value in method.options.items()} == {
        name: type(value) for name, value in options.items()
    }


@pytest.mark.parametrize("name", all_methods())
def test_explainers_keep_their_options_as_attributes(name: str, model: nn.Module) -> None:
    explainer = all_methods()[name](model)
    assert not [option for option in parameters_of(type(explainer)) if not hasattr(explainer, option)]
    method = configure({"own": lambda model: all_methods()[name](model)}, model)[0]
    described = method.describe()
    assert described == json.loads(json.dumps(described))
    assert described["method"] == name
    assert described["class"] == all_methods()[name].__name__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gmarr:norm=l1", r"lists, got 'gmarr'\. Did you mean gmar\?"),
        ("", "lists, got ''"),
        ("gmar:", r"must be NAME or NAME:OPTION=VALUE,OPTION=VALUE,..., got 'gmar:'\."),
        ("gmar:norm", "must be NAME or NAME:OPTION"),
        ("gmar:norm=l1,", "must be NAME or NAME:OPTION"),
        ("gmar:=l1", "must be NAME or NAME:OPTION"),
        (
            "gmar:nrm=l1",
            r"`method` gmar must be given its own options \(norm=l2\|l1, alpha=1\.0, .*\), got 'nrm'\. Did you",
        ),
        ("saliency:x=1", r"saliency must be given its own options \(it has none\), got 'x'\.$"),
        ("feature_ablation:feature_mask=1", "got 'feature_mask'"),
        ("gmar:norm=l1,norm=l2", "`method` gmar must have each option once, got 'norm' twice"),
        ("gmar:norm=l3", r"^`norm` of gmar must be l1 or l2, got 'l3'\.$"),
        ("gmar:norm=", "`norm` of gmar must be l1 or l2, got ''"),
        ("raw_attention:fusion=sum", "`fusion` of raw_attention must be mean, max or min, got 'sum'"),
        ("raw_attention:layer=1.5", "`layer` of raw_attention must be int, got '1.5'"),
        ("legrad:layers=some", "`layers` of legrad must be int or all, got 'some'"),
        ("gmar:alpha=one", "`alpha` of gmar must be number, got 'one'"),
        ("gmar:alpha=nan", "`alpha` of gmar must be number, got 'nan'"),
        ("gmar:row_norm=1", "`row_norm` of gmar must be true or false, got '1'"),
        ("integrated_gradients:method=simpson", "must be riemann_left, .* or gausslegendre, got 'simpson'"),
        ("gradcam:layer=\x1b[31m", "must have printable names"),
    ],
)
def test_wrong_text_raises_an_error_that_lists_what_is_possible(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(text)


def test_a_mapping_names_what_python_configures(model: nn.Module) -> None:
    methods = configure(
        {
            "gmar_l1": partial(vi.GMAR, norm="l1"),
            "rollout": "attention_rollout:fusion=max",
            "plain": vi.RawAttention,
            "first layer": with_layer,
            "again": parse_method("gmar:norm=l1"),
        },
        model,
    )
    assert [method.name for method in methods] == ["gmar_l1", "rollout", "plain", "first layer", "again"]
    expected = [
        vi.GMAR(model, norm="l1"),
        vi.AttentionRollout(model, fusion="max"),
        vi.RawAttention(model),
        vi.RawAttention(model, layer=0),
        vi.GMAR(model, norm="l1"),
    ]
    for method, explainer in zip(methods, expected, strict=True):
        target = 1 if explainer.class_specific else None
        assert torch.equal(method.create(model).patch_map(images(), target), explainer.patch_map(images(), target))
    assert methods[3].describe()["options"] == {"layer": 0, "fusion": "mean"}
    assert configure(methods) == methods
    assert [method.name for method in configure("gmar")] == ["gmar"]


def _other(model: nn.Module) -> vi.Explainer:
    return vi.GMAR(small_vit())


class Forgetful(vi.RawAttention):
    """Does not keep its options."""

    def __init__(self, model: nn.Module, layer: int = -1, scale: float = 1.0) -> None:
        super().__init__(model, layer)


@pytest.mark.parametrize(
    ("methods", "error", "message"),
    [
        ([vi.GMAR], TypeError, "`methods` must be names, or a mapping from names to methods"),
        ({"x": 3}, TypeError, "`methods` 'x' must be a method's name, an explainer class, .* got int"),
        ({"x": nn.Linear}, TypeError, "got Linear"),
        ({3: "gmar"}, TypeError, "`methods` must have text as names, got 3"),
        ({"": "gmar"}, ValueError, "`methods` must have printable names, got ''"),
        ({"a\nb": "gmar"}, ValueError, r"printable names, got 'a\\nb'"),
        ({"x": "gmar:norm=l3"}, ValueError, "`norm` of gmar must be l1 or l2"),
        ({"x": partial(vi.GMAR, nrm="l1")}, ValueError, r"'x' must fit the options of GMAR \(norm=.*'nrm'"),
        ({"x": partial(vi.GMAR, "l1")}, ValueError, "options must have names"),
        ({"x": partial(vi.GMAR, norm="l3")}, ValueError, "`norm` must be one of 'l1', 'l2'"),
        ({"x": partial(vi.AttentionRollout, discard=2)}, ValueError, r"`discard` must lie in \[0, 1\]"),
        (["attention_rollout:discard=2"], ValueError, r"`discard` must lie in \[0, 1\]"),
        ({"x": lambda model: 3}, TypeError, "`methods` 'x' must return an Explainer, got int"),
        ({"x": _other}, ValueError, "must return an explainer of the model it is given"),
        ({"x": lambda model: Forgetful(model)}, ValueError, "got Forgetful without scale. Give a partial"),
        (
            {"x": partial(CaptumIntegratedGradients, baselines=lambda: 0)},
            TypeError,
            "`baselines` must be something that can be recorded .* got function",
        ),
        (
            [parse_method("gmar"), ConfiguredMethod("gmar", vi.GMAR, {"norm": "l1"})],
            ValueError,
            "`methods` must differ in their names, got 'gmar' with different options",
        ),
    ],
)
def test_wrong_methods_raise_errors(methods: Any, error: type[Exception], message: str, model: nn.Module) -> None:
    with pytest.raises(error, match=message):
        configure(methods, model)


def test_an_explainer_of_one_model_raises_an_error(model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"got GMAR\. Give its class, or a partial of it\.$"):
        configure({"x": vi.GMAR(model)}, model)


def test_functions_need_a_model_to_learn_what_they_create() -> None:
    with pytest.raises(ValueError, match="must be a name, a class or a partial of one, got a function"):
        configure({"x": with_layer})


def test_the_same_method_twice_is_one() -> None:
    assert [method.name for method in configure(["gmar", "gmar:norm=l1", "gmar"])] == ["gmar", "gmar:norm=l1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gmar:norm=l1", "gmar:norm=l2"),
        (partial(vi.AttentionRollout, discard=0.1), partial(vi.AttentionRollout, discard=0.2)),
        (with_layer, lambda model: vi.RawAttention(model, layer=1)),
        (
            partial(CaptumIntegratedGradients, baselines=torch.zeros(1, 3, 64, 64)),
            partial(CaptumIntegratedGradients, baselines=torch.ones(1, 3, 64, 64)),
        ),
        (vi.RawAttention, vi.GMAR),
    ],
)
def test_descriptions_differ_if_the_options_do(one: Any, other: Any, model: nn.Module) -> None:
    def recorded(given: Any) -> dict[str, Any]:
        described = configure({"x": given}, model)[0].describe()
        assert described == json.loads(json.dumps(described))
        return described

    assert recorded(one) == recorded(one)
    assert recorded(one) != recorded(other)


def _mean(values: Tensor) -> Tensor:
    return values.mean()


def test_options_that_json_does_not_know_are_recorded_by_name() -> None:
    class Odd(vi.RawAttention):
        def __init__(
            self, model: nn.Module, pool: Callable[..., Tensor] = _mean, dtype: torch.dtype = torch.float64
        ) -> None:
            super().__init__(model)

    (method,) = configure({"odd": partial(Odd, dtype=torch.float32)})
    assert method.describe()["options"] == {"pool": f"{__name__}._mean", "dtype": "torch.float32"}
    assert method.describe()["method"] == "raw_attention"  # whose subclass it is
    assert options_of(Odd) == {}


def test_captums_noise_tunnel_takes_a_configured_explainer(model: nn.Module) -> None:
    def smoothed(explainer: vi.Explainer) -> Tensor:
        torch.manual_seed(0)
        found = NoiseTunnel(explainer).attribute(images(1), nt_samples=2, stdevs=0.1, target=1)
        assert isinstance(found, Tensor)
        return found

    configured = smoothed(parse_method("gmar:norm=l1").create(model))
    assert torch.equal(configured, smoothed(vi.GMAR(model, norm="l1")))
    assert not torch.equal(configured, smoothed(vi.GMAR(model)))


def test_a_configured_method_is_created_for_many_models() -> None:
    method = parse_method("raw_attention:layer=0")
    for name in ("test_vit", "test_vit2"):
        model = timm.create_model(name)
        assert method.create(model).model is model
