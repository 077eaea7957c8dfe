"""The `vit-interactions` command line."""

import inspect
import sys

import typer

from vit_interactions.cli.boundary import run_command
from vit_interactions.cli.compare import compare_command
from vit_interactions.cli.compare_pairs import compare_pairs
from vit_interactions.cli.curve import curve
from vit_interactions.cli.explain import explain
from vit_interactions.cli.explore import explore
from vit_interactions.cli.inspect import inspect_command
from vit_interactions.cli.listings import methods, models
from vit_interactions.cli.study_fields import study_fields
from vit_interactions.cli.train import add_commands
from vit_interactions.cli.windows import windows_command

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.command()(explain)
app.command("compare")(compare_command)
app.command("compare-pairs")(compare_pairs)
app.command()(explore)
app.command()(curve)
app.command("study-fields")(study_fields)
app.command("inspect")(inspect_command)
app.command()(models)
app.command()(methods)
app.command("windows")(windows_command)
add_commands(app)


@app.callback()
def root() -> None:
    """Show how the patches of a Vision Transformer interact."""


def main() -> None:
    """Run the command line; errors are printed in one line."""
    sys.exit(run_command(app, is_resumable))


def is_resumable(command: str) -> bool:
    """Return whether a command has `--resume`.

    Example:
        >>> is_resumable("explain"), is_resumable("curve"), is_resumable("")
        (True, False, False)
    """
    known = ((each.name, each.callback) for each in app.registered_commands)
    commands = {name or run.__name__: run for name, run in known if run is not None}
    return command in commands and "resume" in inspect.signature(commands[command]).parameters
