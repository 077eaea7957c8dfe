"""The templates of reports: what they may use, and that all text in them is escaped and printable."""

import json
from typing import Any

import jinja2
from markupsafe import Markup

from vit_interactions.compare.plan import CONTROL
from vit_interactions.utilities.text import method_in_words, printable


def templates() -> jinja2.Environment:
    """Give what the files in `templates/` are rendered by."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vit_interactions.compare.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["words"] = lambda name: method_in_words(str(name))
    environment.filters["value"] = _in_words
    environment.tests["control"] = lambda name: name == CONTROL
    return environment


def source(environment: jinja2.Environment, name: str) -> str:
    """Read a file that stands beside the template."""
    if environment.loader is None:
        raise RuntimeError("The environment must have a loader.")
    return environment.loader.get_source(environment, name)[0]


def _printable(value: Any) -> Any:
    """Keep what is no character out of the page: control characters, halves of surrogates, changes of direction."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value, lines=True)


def _in_words(value: Any) -> str:
    """Write a setting as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} = {_in_words(each)}" for name, each in value.items())
    return json.dumps(value, ensure_ascii=False)
