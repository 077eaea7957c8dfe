"""Methods with their options: read from text such as "gmar:norm=l1" or given in Python, created for any model."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain import EXPLAINERS, Explainer
from vit_interactions.explain.options import options_of, parameters_of
from vit_interactions.explain.registry import all_methods, find_method
from vit_interactions.utilities.checksum import tensor_checksum
from vit_interactions.utilities.text import did_you_mean, printable


@dataclass(frozen=True)
class ConfiguredMethod:
    """A method and the options that it is created with.

    Attributes:
        name: what tables, figures and files call it.
        kind: its class.
        options: keyword arguments of its constructor; omitted ones have their defaults.
        factory: a function of the model that creates the explainer instead; `options` records what it chose.

    Example:
        >>> import timm
        >>> method = parse_method("gmar:norm=l1,alpha=0.5")
        >>> method.name, method.options
        ('gmar:norm=l1,alpha=0.5', {'norm': 'l1', 'alpha': 0.5})
        >>> method.create(timm.create_model("test_vit")).norm
        'l1'
    """

    name: str
    kind: type[Explainer]
    options: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[[nn.Module], Explainer] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`methods` must have text as names, got {self.name!r}.")
        if not self.name.strip() or printable(self.name) != self.name:
            raise ValueError(f"`methods` must have printable names, got {self.name!r}.")

    def create(self, model: nn.Module) -> Explainer:
        """Create the explainer of a model.

        Raises:
            ValueError: an option outside its range, or a function that returns an explainer of another model.
            TypeError: a function that returns something else.
        """
        if self.factory is None:
            return self.kind(model, **self.options)
        explainer = self.factory(model)
        if not isinstance(explainer, Explainer):
            raise TypeError(f"`methods` {self.name!r} must return an Explainer, got {type(explainer).__name__}.")
        if explainer.model is not unwrap(model):
            raise ValueError(
                f"`methods` {self.name!r} must return an explainer of the model it is given, got one of another model."
            )
        return explainer

    def with_defaults(self, **defaults: Any) -> "ConfiguredMethod":
        """Return the method with values for options that it has and does not set; functions set their own."""
        if self.factory is not None:
            return self
        known = {name: value for name, value in defaults.items() if name in parameters_of(self.kind)}
        return replace(self, options={**known, **self.options})

    def describe(self) -> dict[str, Any]:
        """Return what manifests and reports show of the method, as JSON: options, cost and source.

        Raises:
            TypeError: an option that cannot be recorded.
        """
        known = EXPLAINERS if self.kind.library == Explainer.library else all_methods()
        defaults = {name: each.default for name, each in parameters_of(self.kind).items()}
        return {
            "method": next((name for each in self.kind.__mro__ for name in known if known[name] is each), None),
            "class": self.kind.__name__,
            "options": {name: _recorded(name, each) for name, each in {**defaults, **self.options}.items()},
            "class_specific": self.kind.class_specific,
            "forwards": self.kind.forwards,
            "backwards": self.kind.backwards,
            "more_is_relevant": self.kind.more_is_relevant,
            "source": self.kind.source,
            "library": self.kind.library,
        }


MethodLike: TypeAlias = str | type[Explainer] | Callable[[nn.Module], Explainer] | ConfiguredMethod
Methods: TypeAlias = Iterable[str | ConfiguredMethod] | Mapping[str, MethodLike]


def configure(methods: Methods, model: nn.Module | None = None) -> tuple[ConfiguredMethod, ...]:
    """Configure methods, each under a different name.

    Args:
        methods: names, with options if any, as in `parse_method`. Or a mapping from custom names to such names,
            explainer classes, partials of classes, or functions from a model to its explainer.
        model: used to check the ranges of options, and to call functions, which shows what they create.

    Raises:
        ValueError: an unknown method or option, a value outside its range, or two methods of one name.
        TypeError: anything else.

    Example:
        >>> from vit_interactions import GMAR
        >>> [method.name for method in configure({"l1": partial(GMAR, norm="l1"), "plain": "gmar"})]
        ['l1', 'plain']
    """
    if isinstance(methods, Mapping):
        found = [_from_mapping(name, given, model) for name, given in methods.items()]
    else:
        found = [_from_list(given) for given in ([methods] if isinstance(methods, str) else methods)]
    described: dict[str, dict[str, Any]] = {}
    for method in found:
        facts = method.describe()
        if described.setdefault(method.name, facts) != facts:
            raise ValueError(f"`methods` must differ in their names, got {method.name!r} with different options.")
        if model is not None:
            with suppress(UnsupportedModelError):  # reported with each image
                method.create(model)
    return tuple({method.name: method for method in found}.values())


def declared_passes(described: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many forward and backward passes a map takes, from the description of its method.

    Methods declare the passes of their default options.

    Args:
        described: from `ConfiguredMethod.describe`.

    Returns:
        The passes; None if the method is unknown, or an option that does not follow the run differs from its default.

    Example:
        >>> declared_passes(parse_method("legrad").describe())
        (3, 2)
        >>> declared_passes(parse_method("legrad:layers=-4").describe())
    """
    try:
        method = parse_method(described["method"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    kind = method.kind
    defaults = method.with_defaults(**kind.run_defaults).describe()["options"]
    options = described.get("options", {})
    if any(options.get(name) != value for name, value in defaults.items() if name not in kind.run_settings):
        return None
    return kind.forwards, kind.backwards


def parse_method(text: str) -> ConfiguredMethod:
    """Read NAME or NAME:OPTION=VALUE,OPTION=VALUE,...

    Raises:
        ValueError: another form, or an unknown method, option or value; the error lists the known ones.

    Example:
        >>> parse_method("attention_rollout:fusion=max,discard=0.9").options
        {'fusion': 'max', 'discard': 0.9}
        >>> parse_method("gmar:norm=l3")
        Traceback (most recent call last):
        ValueError: `norm` of gmar must be l1 or l2, got 'l3'.
    """
    name, colon, rest = text.partition(":")
    kind = find_method(name)
    known, options = options_of(kind), dict[str, Any]()
    for part in rest.split(",") if colon else ():
        option, equals, value = (each.strip() for each in part.partition("="))
        if not (option and equals):
            raise ValueError(f"`method` must be NAME or NAME:OPTION=VALUE,OPTION=VALUE,..., got {text!r}.")
        if option not in known:
            raise ValueError(
                f"`method` {name} must be given its own options ({_listed(kind)}), got {option!r}."
                f"{did_you_mean(option, known)}"
            )
        if option in options:
            raise ValueError(f"`method` {name} must have each option once, got {option!r} twice.")
        options[option] = known[option].parse(value, name)
    return ConfiguredMethod(text, kind, options)


def _listed(kind: type[Explainer]) -> str:
    return ", ".join(map(str, options_of(kind).values())) or "it has none"


def _from_list(given: Any) -> ConfiguredMethod:
    if isinstance(given, ConfiguredMethod):
        return given
    if not isinstance(given, str):
        raise TypeError(
            f"`methods` must be names, or a mapping from names to methods, got {type(given).__name__} in a list."
        )
    return parse_method(given)


def _from_mapping(name: str, given: Any, model: nn.Module | None) -> ConfiguredMethod:
    if isinstance(given, str | ConfiguredMethod):
        return replace(_from_list(given), name=name)
    kind, arguments, options = (
        (given.func, given.args, given.keywords) if isinstance(given, partial) else (given, (), {})
    )
    if inspect.isclass(kind) and issubclass(kind, Explainer):
        try:
            if arguments:
                raise TypeError("options must have names")
            inspect.signature(kind).bind(None, **options)
        except TypeError as error:
            raise ValueError(
                f"`methods` {name!r} must fit the options of {kind.__name__} ({_listed(kind)}): {error}."
            ) from None
        return ConfiguredMethod(name, kind, options)
    if inspect.isclass(kind) or not callable(kind):
        hint = " Give its class, or a partial of it." if isinstance(given, Explainer) else ""
        raise TypeError(
            f"`methods` {name!r} must be a method's name, an explainer class, a partial of one, or a function from a "
            f"model to its explainer, got {getattr(given, '__name__', type(given).__name__)}.{hint}"
        )
    return _from_function(name, given, model)


def _from_function(
    name: str, factory: Callable[[nn.Module], Explainer], model: nn.Module | None
) -> ConfiguredMethod:
    if model is None:
        raise ValueError(f"`methods` {name!r} must be a name, a class or a partial of one, got a function.")
    made = ConfiguredMethod(name, Explainer, factory=factory).create(model)
    lacking = [option for option in parameters_of(type(made)) if not hasattr(made, option)]
    if lacking:
        raise ValueError(
            f"`methods` {name!r} must return an explainer with its options as attributes, so that they can be "
            f"recorded, got {type(made).__name__} without {', '.join(lacking)}. Give a partial of the class instead."
        )
    options = {option: getattr(made, option) for option in parameters_of(type(made))}
    return ConfiguredMethod(name, type(made), options, factory)


def _recorded(name: str, value: Any) -> Any:
    """Return the value of an option as JSON, or the text that stands for it."""

    def in_words(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"tensor {tuple(value.shape)}, SHA-256 {tensor_checksum(value)}"
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        path = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '<')}"
        if "<" in path:  # a lambda, or a function within another, which share their names
            raise TypeError(
                f"`{name}` must be something that can be recorded (numbers, text, None, a tensor or a function of a "
                f"module), got {type(value).__name__}."
            )
        return path

    return json.loads(json.dumps(value, default=in_words))
