"""The templates of reports, in which all text is escaped and printable."""

import base64
import hashlib
import json
from importlib.metadata import version
from typing import Any

import jinja2
from markupsafe import Markup

from vit_interactions.compare.summary import BASELINE
from vit_interactions.utilities.text import printable

HOME = "vit_interactions.compare.report"


def render_page(template: str, package: str = HOME, **content: Any) -> str:
    """Render a page that extends `base.html.jinja`.

    Args:
        template: name of the template.
        package: package whose `templates/` has it; it can import the parts of reports.
        **content: its variables, besides style, script and version.
    """
    environment = templates(package)
    script = source(environment, "report.js")
    return environment.get_template(template).render(
        style=Markup(source(environment, "report.css") + source(environment, "tiles.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=version("vit_interactions"),
        **content,
    )


def templates(package: str = HOME) -> jinja2.Environment:
    """Return the environment that renders the files in `templates/` of a package, or of reports."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in dict.fromkeys((package, HOME))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["value"] = _format_value
    environment.tests["baseline"] = lambda name: name == BASELINE
    return environment


def source(environment: jinja2.Environment, name: str) -> str:
    """Read a file from `templates/`."""
    if environment.loader is None:
        raise RuntimeError("The environment must have a loader.")
    return environment.loader.get_source(environment, name)[0]


def _printable(value: Any) -> Any:
    """Replace control characters, surrogates and changes of direction in text."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value, lines=True)


def _format_value(value: Any) -> str:
    """Format a setting for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} = {_format_value(each)}" for name, each in value.items())
    return json.dumps(value, ensure_ascii=False)
