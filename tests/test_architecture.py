"""The promises about the code itself: directions of imports, documentation, size, and what an import costs."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vit_interactions

PACKAGE = Path(vit_interactions.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
CORE = "vit_interactions"

# What layers share, which is in none of them.
SHARED = {"checksum", "console", "files", "options", "process", "seeds", "trained_windows", "utilities", "wording"}
# Each layer may import itself and these.
MAY_IMPORT = {
    "utilities": set(),
    "functional": set(),
    "attention": {"functional", "adapters"},
    "explain": {"functional", "attention"},
    "models": {"functional"},
    "images": {"functional", *SHARED},
    "gallery": {"files", "utilities"},
    "patch_explorer": {
        "functional",
        "attention",
        "figures",
        "images",
        "explanation",
        "loading",
        "photographs",
        "predictions",
        *SHARED,
    },
    "training": {"functional", "attention", "explain", "models", "images", "loading", "figures", *SHARED},
    "compare": {
        "functional",
        "attention",
        "explain",
        "figures",
        "images",
        "bundled",
        "explanation",
        "loading",
        "methods",
        "patch_explorer",
        "photographs",
        "predictions",
        *SHARED,
    },
}
DRAW = {"compare"}  # what else draws is in no layer


def imported_modules(path: Path) -> set[str]:
    """All modules that a file imports, wherever in the file, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layers_of(modules: set[str]) -> set[str]:
    """The layers of the package among imported modules; "" is the package itself."""
    parts = [module.split(".") for module in modules if module.split(".")[0] == CORE]
    folders = {path.name for path in PACKAGE.iterdir()} | {path.stem for path in PACKAGE.iterdir()}
    return {part[1] if len(part) > 1 and part[1] in folders else "" for part in parts}


@pytest.mark.parametrize("name", sorted(SHARED - {"utilities"}))
def test_what_layers_share_uses_none_of_them(name: str) -> None:
    assert layers_of(imported_modules(PACKAGE / f"{name}.py")) <= {
        "functional",
        "utilities",
        *({"wording"} if name == "console" else ()),
    }


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_in_one_direction(layer: str) -> None:
    files = sorted((PACKAGE / layer).glob("*.py"))
    assert len(files) > 1
    for path in files:
        imported = {module for module in imported_modules(path) if module != CORE}
        assert layers_of(imported) <= {layer, *MAY_IMPORT[layer]}, path


def test_the_direction_check_sees_imports() -> None:
    # The check above could not fail if it found nothing.
    explain = imported_modules(PACKAGE / "explain" / "base.py")
    assert layers_of(explain) == {"explain", "attention"}
    assert layers_of({"vit_interactions.cli", "vit_interactions.EXPLAINERS", "torch.nn"}) == {"cli", ""}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_never_imports_the_adapters(path: Path) -> None:
    assert not [module for module in imported_modules(path) if module.startswith("vit_interactions_adapters")]


def test_modules_of_the_adapters_are_named_in_one_table_that_exists() -> None:
    named = {
        (path.name, node.value)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"vit_interactions_adapters[\w.]*", str(node.value))
    }
    assert {file for file, _ in named} == {"adapters.py"}
    assert len(named) == 4
    assert not imported_modules(PACKAGE / "adapters.py")
    for _, module in named:
        assert importlib.util.find_spec(module), module


def test_functional_needs_torch_only() -> None:
    for path in (PACKAGE / "functional").glob("*.py"):
        outside = {module.split(".")[0] for module in imported_modules(path)} - {CORE, "torch"}
        assert outside <= sys.stdlib_module_names, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    assert not source or ast.get_docstring(ast.parse(source))


PUBLIC = {
    name: member
    for name, member in vars(vit_interactions).items()
    if not name.startswith("_") and (inspect.isclass(member) or inspect.isfunction(member))
}
# Abstract or made by other calls: their examples stand where they come from.
WITHOUT_EXAMPLE = {"AttentionCall", "AttentionRecord", "Explainer", "UnsupportedModelError"}
RESULTS = {"InteractionCurve", "ResponsiveField", "TokenLayout"}


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name: str) -> None:
    member = PUBLIC[name]
    assert inspect.getdoc(member)
    if inspect.isclass(member):
        for attribute, value in vars(member).items():
            if inspect.isfunction(value) and not attribute.startswith("__"):
                documented = attribute.startswith("_") or inspect.getdoc(value)
                assert documented, f"{name}.{attribute}"
    if name not in WITHOUT_EXAMPLE | RESULTS:
        assert ">>>" in inspect.getdoc(member), f"{name} has no example"


def test_the_public_names_are_those_of_the_design() -> None:
    promised = {
        "record_attention",
        "token_layout",
        "InteractionUncertainty",
        "responsive_field",
        "ResponsiveFieldSize",
        "ResponsiveFieldTendency",
        "IndiscriminativePatches",
        "AttentionRollout",
        "RawAttention",
    }
    assert promised <= set(PUBLIC)
    assert "EXPLAINERS" in vars(vit_interactions)


def added_by(*imports: str) -> list[set[str]]:
    """The modules that each of some imports loads after those before it, in a new process."""
    code = "import sys, captum.attr\nbefore = set(sys.modules)\n" + "".join(
        f"import {name}\nprint(*set(sys.modules) - before)\nbefore = set(sys.modules)\n" for name in imports
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in result.stdout.splitlines()]


def test_importing_the_package_loads_no_figures_and_no_other_explainers() -> None:
    # captum.attr itself loads matplotlib.pyplot; what counts is what this package adds.
    package, command_line = added_by("vit_interactions", "vit_interactions.cli")
    assert "vit_interactions.explain.raw_attention" in package
    unwanted = ("matplotlib", "captum.insights", "pytorch_grad_cam", "skimage", "typer", "vit_interactions.cli")
    assert not [module for module in package if module.startswith(unwanted)]
    # What makes tables and pages is loaded when a command needs it, so that help comes soon.
    assert "vit_interactions.compare.commands" in command_line
    unwanted = ("pandas", "bokeh", "jinja2", "skimage", "pytorch_grad_cam")
    assert not [module for module in package | command_line if module.startswith(unwanted)]
    # Nor do the layers import what draws, wherever in a file.
    for path in (path for layer in MAY_IMPORT.keys() - DRAW for path in (PACKAGE / layer).glob("*.py")):
        assert not [name for name in imported_modules(path) if name.startswith("matplotlib")], path
