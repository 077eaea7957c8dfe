"""Test that every Python example of the README and the guides runs, and that its commands are those of `.ci/run`."""

import re
from pathlib import Path

import pytest
import timm

from tests.helpers.documents import ROOT, blocks

DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


# grad-cam's ROAD under numpy 2; and models without their trained weights find nothing at times.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if blocks(path, "python")], ids=lambda path: path.stem
)
def test_examples_run_in_order(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # for the images that they write
    create = timm.create_model

    def without_download(name: str, pretrained: bool = False, **options: object) -> object:
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_download)
    from vit_interactions.explain import EXPLAINERS

    known = dict(EXPLAINERS)
    namespace: dict[str, object] = {}
    try:
        for number, block in enumerate(blocks(path, "python")):
            exec(compile(block, f"{path.name}, example {number}", "exec"), namespace)
    finally:
        EXPLAINERS.clear()
        EXPLAINERS.update(known)
    assert "vi" in namespace


def test_values_that_the_readme_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import vit_interactions as vi

    model = timm.create_model("vit_mini_patch8_112")
    images = torch.rand(1, 3, 112, 112)
    assert vi.InteractionUncertainty(model).attribute(images, patch=(5, 7)).shape == (1, 3, 112, 112)
    assert vi.ResponsiveFieldTendency(model).tendency(images).shape == (1, 14, 14, 2)
    assert vi.AttentionRollout(model).patch_map(images).shape == (1, 14, 14)


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = blocks(ROOT / "README.md", "sh")
    commands = next(block for block in readme if "pytest" in block).strip().splitlines()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert len(commands) == 3
    for command in commands:
        assert re.search(rf"^(python -m )?{re.escape(command)}$", script, re.MULTILINE), command


def test_relative_links_lead_to_files() -> None:
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_methods_page_lists_every_method() -> None:
    from vit_interactions_adapters.methods import METHODS

    from vit_interactions.explain import EXPLAINERS

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, explainer in EXPLAINERS.items():
        (row,) = (row for row in rows if row.startswith(f"| `{name}` | `{explainer.__name__}` |"))
        assert row.endswith(f"| {explainer.forwards} / {explainer.backwards} |"), name
    for name, explainer in METHODS.items():
        assert [row for row in rows if f"`{name}`" in row and f"| {explainer.library} |" in row], name


def test_guide_lists_methods_that_are_not_included() -> None:
    from vit_interactions_adapters.gradcam_methods import NOT_OFFERED

    guide = ROOT / "docs" / "guides" / "compare_with_captum_and_gradcam.md"
    listed = re.search(r"\*\*Not included\*\* are ([^:]*):", guide.read_text(encoding="utf-8"))
    assert listed
    assert set(re.split(r",\s+|\s+and\s+", listed[1])) == set(NOT_OFFERED)
