"""Tests of the code base itself: import directions, documentation, size, and the cost of an import."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vit_interactions
from vit_interactions.cli.main import app

CORE = "vit_interactions"
PACKAGE = Path(vit_interactions.__file__).parent
TESTS = Path(__file__).parent

# The floors of the house, from the ground up: a room imports from lower floors, and from the rooms named beside it.
FLOORS = (
    {"utilities": set(), "functional": {"utilities"}},
    {"attention": set()},
    {"models": set(), "images": set(), "loading": {"models"}},
    {"explain": set()},
    {"metrics": set(), "figures": set()},
    {
        "compare": {"explorer"},
        "explorer": set(),
        "field_study": {"compare"},
        "gallery": set(),
        "pair_study": {"compare"},
        "training": set(),
    },
    {"cli": set()},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
BESIDE = {room: beside for rooms in FLOORS for room, beside in rooms.items()}
LARGEST_SHARE = 0.15  # of the package's lines in one room


def module_name(path: Path) -> str:
    """Return the dotted module name of a file of the package."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(tree: ast.AST) -> set[str]:
    """Return the full names of all modules and objects that a file imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules_of(names: Iterable[str]) -> set[str]:
    """Return the package's modules among imported names, or the modules that define them."""
    own = {name for name in names if name.split(".")[0] == CORE}
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


IMPORTS = {name: imported_names(ast.parse(path.read_text())) for name, path in MODULES.items()}
USES = {name: modules_of(imports) - {name} for name, imports in IMPORTS.items()}


def room(module: str) -> str:
    """Return the room of a module; "" for the package's root."""
    return module.split(".")[1] if "." in module else ""


def allowed(importer: str, imported: str) -> bool:
    """Tell if one room may import from another."""
    return importer == imported or imported in BESIDE[importer] or FLOOR[imported] < FLOOR[importer]


def test_every_module_has_a_room_in_the_table() -> None:
    assert {room(name) for name in MODULES} == {"", *FLOOR}
    assert [name for name in MODULES if not room(name)] == [CORE]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_imports_run_down(name: str) -> None:
    up = {used for used in USES[name] if not room(used) or not allowed(room(name), room(used))}
    assert not up, f"{name} imports from above, or from the package's root"


def test_modules_import_in_no_circle() -> None:
    # Submodules run their packages' `__init__` first; an import there is not a cycle.
    graph = {name: uses for name, uses in USES.items() if not MODULES[name].name.startswith("__init__")}
    TopologicalSorter(graph).prepare()


def test_the_checks_of_directions_see_imports() -> None:
    # They could not fail if nothing was found.
    seen = modules_of(imported_names(ast.parse("def f():\n    from vit_interactions.cli.main import app\n")))
    assert seen == {"vit_interactions.cli.main"}
    assert modules_of(imported_names(ast.parse("from vit_interactions import EXPLAINERS"))) == {CORE}
    assert "vit_interactions.functional.gmar" in USES["vit_interactions.explain.gmar"]
    assert not allowed("functional", "attention")
    assert not allowed("metrics", "figures")
    assert allowed("functional", "utilities")


def test_no_room_holds_too_much() -> None:
    lines: Counter[str] = Counter()
    for path in MODULES.values():  # a folder inside a room is a room of its own
        lines[str(path.parent.relative_to(PACKAGE))] += len(path.read_text().splitlines())
    folder, most = lines.most_common(1)[0]
    assert most / lines.total() <= LARGEST_SHARE, folder


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file, without imports, signatures, docstrings, comments and lone brackets."""
    source, skipped = path.read_text(), set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
        if isinstance(node, ast.FunctionDef):  # overriding methods must repeat signatures
            skipped |= {*range(node.lineno, node.body[0].lineno)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [(number, " ".join(line.split("#")[0].split())) for number, line in enumerate(source.splitlines(), 1)]
    return [(number, line) for number, line in lines if number not in skipped and re.search(r"\w", line)]


def shared_lines(paths: Iterable[Path], count: int) -> list[list[str]]:
    """Find the places that have `count` or more equal lines in a row."""
    places: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        lines = code_lines(path)
        for start in range(len(lines) - count + 1):
            run = tuple(line for _, line in lines[start : start + count])
            places.setdefault(run, []).append(f"{path}:{lines[start][0]}")
    return [found for found in places.values() if len(found) > 1]


def test_no_two_places_share_six_lines(tmp_path: Path) -> None:
    adapters = Path(importlib.util.find_spec("vit_interactions_adapters").origin).parent  # type: ignore[union-attr, arg-type]
    assert not shared_lines([*MODULES.values(), *sorted(adapters.rglob("*.py"))], 6)
    body = "\n".join(f"    x{number} = {number}" for number in range(6))
    copies = [tmp_path / "a.py", tmp_path / "b.py"]
    for number, path in enumerate(copies):
        path.write_text(f'def f{number}():\n    """Copy {number}."""\n{body}\n')
    assert len(shared_lines(copies, 6)) == 1


def test_tests_do_not_import_tests() -> None:
    for path in TESTS.rglob("*.py"):
        tests = {name for name in imported_names(ast.parse(path.read_text())) if re.search(r"(^|\.)test_", name)}
        assert not {name for name in tests if name.split(".")[0] == "tests"}, path


FOUND_BY_NAME = 0.88  # share of modules of more than 40 lines whose tests stand in tests/<room>/test_<module>.py


def test_tests_are_found_by_the_names_of_modules() -> None:
    modules = [
        path.relative_to(PACKAGE)
        for path in MODULES.values()
        if path.name != "__init__.py" and len(path.read_text().splitlines()) > 40
    ]
    missing = [path for path in modules if not (TESTS / path.parent / f"test_{path.name}").exists()]
    share = 1 - len(missing) / len(modules)
    print(f"{share:.0%} of {len(modules)} modules have tests by name. Missing:", *missing, sep="\n")
    assert share >= FOUND_BY_NAME


@pytest.mark.parametrize("name", MODULES)
def test_the_core_never_imports_the_adapters(name: str) -> None:
    assert not [used for used in IMPORTS[name] if used.startswith("vit_interactions_adapters")]


def test_modules_of_the_adapters_are_named_in_one_table_that_exists() -> None:
    named = {
        (name, node.value)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"vit_interactions_adapters[\w.]*", str(node.value))
    }
    assert {file for file, _ in named} == {"vit_interactions.utilities.adapters"}
    assert len(named) == 4
    assert not IMPORTS["vit_interactions.utilities.adapters"]
    for _, module in named:
        assert importlib.util.find_spec(module), module


def test_functional_needs_torch_only() -> None:
    for name in (name for name in MODULES if room(name) == "functional"):
        # Builds of torch for CUDA bring triton; one file uses it if it is there.
        known = {CORE, "torch", "numpy", "scipy", "triton"}
        outside = {used.split(".")[0] for used in IMPORTS[name]} - known
        assert outside <= sys.stdlib_module_names, name


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_say_what_they_are(name: str) -> None:
    source = MODULES[name].read_text()
    assert len(source.splitlines()) <= 400
    assert not source or ast.get_docstring(ast.parse(source))


PUBLIC = {
    name: member
    for name in dir(vit_interactions)
    for member in [getattr(vit_interactions, name)]
    if inspect.isclass(member) or inspect.isfunction(member)
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
    assert "EXPLAINERS" in dir(vit_interactions)


def printed_by(code: str) -> set[str]:
    """Run code in a new process, and return the words of the last line that it prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_registers_its_models_and_loads_no_methods() -> None:
    added = printed_by("""
import sys, timm
before = set(sys.modules)
import vit_interactions as vi
added = set(sys.modules) - before
assert timm.is_model("winft_mini_patch8_112")
# Rooms do not hide the functions of their names.
import vit_interactions.compare.plan, vit_interactions.explorer.data
assert callable(vi.compare) and callable(vi.explorer)
print(*added)
""")
    assert "vit_interactions.models.winft" in added
    unwanted = ("captum", "matplotlib", "pandas", "pytorch_grad_cam", "scipy", "skimage", "typer")
    unwanted += ("vit_interactions.cli", "vit_interactions.explain", "vit_interactions.metrics")
    assert not [module for module in added if module.startswith(unwanted)]


# One of each kind: a command, an option, an argument, a type, a range; checked by typer, or by the command itself.
WRONG = (
    "nope",
    "explain --nope",
    "compare images",
    "evaluate",
    "curve --out a.png --alpha x",
    "compare --out o --metric abpc --seed -1",
    "compare-pairs --out o --weighting x",
    "explain --out o --alpha 2",
    "explain --out o --patch 1",
    "explain --out o nowhere.png",
    "compare --out o --beta -1",
    "explore --out o --window-coverage nan",
    "study-fields --images i --boxes b --out o --alpha 2",
    "inspect --img-size 0 0",
    "windows --data d --model m --out o --workers -1",
    "train d --out o --preset x",
    "train d --out o --model m --lr 0",
    "evaluate d --model m --batch-size 0",
)
# torch and timm take three seconds.
SLOW = {"bokeh", "captum", "jinja2", "matplotlib", "pandas", "scipy", "skimage", "timm", "torch", "torchvision"}


def loaded_by_command_lines(lines: Iterable[str], code: int) -> set[str]:
    """Return the top-level modules that `vit-interactions` loads for lines that must end with an exit code."""
    return printed_by(f"""
import sys
from vit_interactions_cli import main
for line in {list(lines)}:
    sys.argv = ["vit-interactions", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert end.code == {code}, line
print(*(name.partition(".")[0] for name in sys.modules))
""")


def test_help_and_usage_errors_load_nothing_slow() -> None:
    commands = [each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands]
    assert {"explain", "compare", "train"} < set(commands)
    helped = loaded_by_command_lines(["--help", *(f"{name} --help" for name in commands)], 0)
    assert "typer" in helped
    assert not helped & (SLOW | {"numpy", "PIL"})
    assert not loaded_by_command_lines(WRONG, 2) & SLOW


def test_commands_find_the_models_of_the_package() -> None:
    # The package does not register them for its command line, see `vit_interactions_cli`.
    assert "timm" in loaded_by_command_lines(["models winft_mini"], 0)


def test_only_figures_draw() -> None:
    drawing = {room(name) for name, imports in IMPORTS.items() if any(i.startswith("matplotlib") for i in imports)}
    assert drawing <= {"figures", "compare", "gallery"}, drawing
