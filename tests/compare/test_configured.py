"""Configured methods in a comparison: names, maps, metrics that explain again, reports, and resuming."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.compared import make_model
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.report.page import render
from vit_interactions.figures import prepare
from vit_interactions.metrics import Case, Metric, Score, randomization

HOSTILE = "<script>alert(1)</script> $x_1^$ a/b:c"
FIELD, OPEN_FIELD = "responsive_field_size", "responsive_field_size:alpha=0.2"


@pytest.fixture
def model() -> nn.Module:
    return make_model()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (70, 70, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def explain_again(case: Case, patch_map: Tensor) -> Score:
    """Return the largest difference between the map and that of the case's `explain`."""
    assert case.explain is not None
    again = case.explain(case.model, case.inputs, case.target)[0].double()
    return Score(float((again - patch_map).abs().max()))


AGAIN = Metric("again", "lower", (0.0, 1.0), "these tests", {}, frozenset(), "one map", explain_again)


def test_maps_have_the_options_of_their_methods(model: nn.Module, image: Path) -> None:
    methods = {
        "gmar_l1": partial(vi.GMAR, norm="l1"),
        "rollout": "attention_rollout:fusion=max,discard=0.9",
        "plain": vi.RawAttention,
        "first layer": lambda model: vi.RawAttention(model, layer=0),
        HOSTILE: "gmar",
        FIELD: FIELD,
        OPEN_FIELD: OPEN_FIELD,
    }
    comparison = vi.compare([image], model, methods, [AGAIN, randomization()], alpha=0.05)
    assert comparison.methods == list(methods)
    assert comparison.failures().empty
    maps = comparison.maps("VisionTransformer", "noise")
    inputs = prepare(Image.open(image).convert("RGB"), model).input[None]
    target = int(model(inputs).argmax())
    for name, explainer in {
        "gmar_l1": vi.GMAR(model, norm="l1"),
        "rollout": vi.AttentionRollout(model, fusion="max", discard=0.9),
        "plain": vi.RawAttention(model),
        "first layer": vi.RawAttention(model, layer=0),
        HOSTILE: vi.GMAR(model),
        FIELD: vi.ResponsiveFieldSize(model, alpha=0.05),
        OPEN_FIELD: vi.ResponsiveFieldSize(model, alpha=0.2),
    }.items():
        sign = 1 if explainer.more_is_relevant else -1
        expected = sign * explainer.patch_map(inputs, target if explainer.class_specific else None)[0]
        assert torch.allclose(torch.from_numpy(maps[name]), expected.double(), atol=1e-6), name
    assert not np.allclose(maps["gmar_l1"], maps[HOSTILE])
    table = comparison.table()
    assert (table[table["metric"] == "again"]["value"] < 1e-6).all()
    described = comparison.settings["methods"]
    assert described["gmar_l1"]["method"] == described[HOSTILE]["method"] == "gmar"
    assert described["gmar_l1"]["options"]["norm"] == "l1"
    assert described["rollout"]["options"] == {
        "fusion": "max",
        "discard": 0.9,
        "alpha": 1.0,
        "start_layer": 0,
        "exclude_sinks": False,
    }
    assert described[FIELD]["options"] == {"alpha": 0.05, "beta": 0.2, "coverage": 1.0, "exclude_sinks": False}
    assert described[OPEN_FIELD]["options"] == {"alpha": 0.2, "beta": 0.2, "coverage": 1.0, "exclude_sinks": False}


def test_the_report_shows_options_and_cites_the_method(model: nn.Module, image: Path) -> None:
    comparison = vi.compare([image], model, {HOSTILE: partial(vi.GMAR, norm="l1"), "b": "gmar"}, ["deletion"])
    page = render(comparison)
    assert "norm = l1, alpha = 1.0, residual = product" in page
    assert "GMAR" in page[page.index("cite") :]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x_1^$ a/b:c" in page
    assert "<script>alert" not in comparison._repr_html_()


def test_window_shares_are_those_of_methods_that_follow_the_run(model: nn.Module, image: Path) -> None:
    def notes(*methods: str) -> str:
        return " ".join(vi.compare([image], model, methods, [AGAIN], alpha=1.0).notes())

    assert "the windows cover" in notes(FIELD, OPEN_FIELD)
    assert "the windows cover" not in notes(OPEN_FIELD)


def test_resuming_with_other_options_raises_an_error(model: nn.Module, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def compare(methods: Any, **options: Any) -> Comparison:
        return vi.compare([image], model, methods, [AGAIN], out=out, resume=out.exists(), **options)

    compare({"own": partial(vi.GMAR, norm="l1")})
    assert compare({"own": "gmar:norm=l1"}).failures().empty  # the same method
    for other, words in (
        (partial(vi.GMAR, norm="l2"), 'norm was "l1", now is "l2"'),
        (vi.AttentionRollout, 'method was "gmar", now is "attention_rollout"'),
    ):
        with pytest.raises(ValueError, match=f"other settings: methods own (options )?{words}"):
            compare({"own": other})


def test_wrong_methods_raise_errors_before_anything_is_written(
    model: nn.Module, image: Path, tmp_path: Path
) -> None:
    for methods, message in (
        ({"x": partial(vi.GMAR, nrm="l1")}, "'nrm'"),
        ({"x": "attention_rollout:discard=2"}, "`discard` must lie in"),
        ({"x": lambda model: vi.GMAR(make_model())}, "an explainer of the model it is given"),
        ({}, "`methods` must name at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            vi.compare([image], model, methods, [AGAIN], out=tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_options_on_the_command_line(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), tmp_path / "weights.safetensors")
    weights = ["--model", "test_vit", "--checkpoint", tmp_path / "weights.safetensors"]
    arguments = ["compare", image, *weights, "--metric", "deletion", "--out", out]
    methods = ["--method", "gmar:norm=l1", "--method", FIELD, "--method", OPEN_FIELD, "--alpha", "0.05"]
    assert run(*arguments, *methods) == 0
    assert "gmar:norm=l1" in capsys.readouterr().out
    comparison = Comparison.open(out)
    assert comparison.methods == ["gmar:norm=l1", FIELD, OPEN_FIELD]
    options = {name: described["options"] for name, described in comparison.settings["methods"].items()}
    assert options["gmar:norm=l1"]["norm"] == "l1"
    assert (options[FIELD]["alpha"], options[OPEN_FIELD]["alpha"]) == (0.05, 0.2)
    capsys.readouterr()
    for wrong, message in (("gmar:norm=l3", "`norm` of gmar must be l1 or l2"), ("gmar:x=1", "its own options")):
        assert run(*arguments, "--resume", "--method", wrong) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert run(*arguments, "--resume", *methods[2:], "--method", "gmar:norm=l2") == 2
    assert "other settings: methods gmar:norm=l1 was removed" in " ".join(capsys.readouterr().err.split())
