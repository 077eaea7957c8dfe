"""Maps of a batch: an image or a method that fails costs only itself."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import vit_interactions as vi
from tests.helpers.compared import make_model, scores
from tests.helpers.resumed import METHODS, compare
from vit_interactions.compare import maps
from vit_interactions.compare import run as running
from vit_interactions.compare.report.page import report
from vit_interactions.figures import prepare


def test_batches_give_the_results_of_single_images(root: Path, measured: list[object]) -> None:
    methods = [*METHODS, "gmar", "saliency", "gradient_shap"]
    alone = compare(root, methods=methods, out=root / "alone")
    sizes: list[int] = []
    explained = running.explain_batch

    def counted(model: nn.Module, inputs: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(inputs))
        return explained(model, inputs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "explain_batch", counted)
        together = compare(root, methods=methods, batch_size=3)
        assert sizes == [3, 1]
        pd.testing.assert_frame_equal(scores(together), scores(alone), rtol=1e-4)
        for key in "abcd":
            for method, values in together.maps("VisionTransformer", key).items():
                expected = alone.maps("VisionTransformer", key)[method]
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        # What is missing is explained with the images that it was explained with before: the same bits.
        (root / "out" / "records" / "visiontransformer" / "b.json").unlink()
        measured.clear()
        sizes.clear()
        resumed = compare(root, methods=methods, batch_size=3, resume=True)
    assert sizes == [3]
    assert len(measured) == 1
    pd.testing.assert_frame_equal(scores(resumed), scores(together), rtol=0, atol=0)


def test_an_image_that_breaks_its_batch_costs_only_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (70, 80), (255, 0, 0)).save(root / "images" / "b.png")
    (root / "images" / "c.png").write_bytes(b"no picture")
    explain = vi.RawAttention._explain

    def picky(self: vi.RawAttention, inputs: torch.Tensor, *rest: Any) -> Any:
        if any(image.std((1, 2)).max() < 1e-6 for image in inputs):
            raise RuntimeError("no red, please")
        return explain(self, inputs, *rest)

    monkeypatch.setattr(vi.RawAttention, "_explain", picky)
    comparison = compare(root, batch_size=4)
    failures = comparison.failures().set_index(["image", "method"])["reason"]
    assert failures["b", "raw_attention"] == "RuntimeError: no red, please"
    assert "not an image" in failures["c", ""]
    assert len(failures) == 2
    assert comparison.unfinished == 0
    alone = compare(root, out=root / "alone")
    pd.testing.assert_frame_equal(scores(comparison), scores(alone), rtol=1e-4)


def test_a_map_that_is_not_finite_is_that_methods_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = maps.as_relevance

    def broken(patch_map: torch.Tensor, explainer: object) -> torch.Tensor:
        turned = original(patch_map, explainer)  # type: ignore[arg-type]
        return turned * float("nan") if isinstance(explainer, vi.RawAttention) else turned

    monkeypatch.setattr(maps, "as_relevance", broken)
    comparison = compare(root)
    assert {*comparison.table()["method"]} == {*METHODS} - {"raw_attention"}
    reasons = comparison.failures().query("method == 'raw_attention'")["reason"]
    assert {*reasons} == {"the map has NaN or infinite values at 16 of 16 patches."}
    assert report(comparison, tmp_path / "report.html").stat().st_size > 0


def test_memory_of_a_failed_method_is_free_before_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def greedy(self: vi.GMAR, inputs: torch.Tensor, *rest: Any) -> Any:
        alive.append(sum(each() is not None for each in held))
        much = torch.zeros(3)
        held.append(weakref.ref(much))
        raise torch.OutOfMemoryError("no memory")

    rollout = vi.AttentionRollout._explain

    def after(self: vi.AttentionRollout, *arguments: Any) -> Any:
        alive.append(sum(each() is not None for each in held))
        return rollout(self, *arguments)

    monkeypatch.setattr(vi.GMAR, "_explain", greedy)
    monkeypatch.setattr(vi.AttentionRollout, "_explain", after)
    gc.disable()
    try:
        comparison = compare(root, methods=["gmar", "attention_rollout"], metrics=[], batch_size=4)
    finally:
        gc.enable()
    assert len(held) == 1 + 1 + 4  # warm-up; at once, then one at a time
    assert set(alive) == {0}
    assert set(comparison.failures()["method"]) == {"gmar"}
    assert set(comparison.table()["method"]) == {"attention_rollout"}


@pytest.mark.parametrize(
    ("methods", "same"),
    [
        (["responsive_field_size"], True),
        (["responsive_field_tendency:beta=0.5"], True),  # dropped patches stay in the windows
        (["responsive_field_size:alpha=0.3"], False),
        (["responsive_field_size:exclude_sinks=true"], False),
        (["responsive_field_size:coverage=0.5"], False),
        (["responsive_field_size:alpha=0.3", "responsive_field_size:beta=0"], True),
        (["gmar", "indiscriminative_patches"], False),
    ],
)
def test_window_fractions_are_those_of_a_method_with_the_windows_of_the_run(
    methods: list[str], same: bool, root: Path
) -> None:
    comparison = compare(root, methods=methods, metrics=["pointing_game"])
    model = make_model()
    explainer = vi.ResponsiveFieldSize(model, alpha=0.1)
    for key in "ab":
        found = comparison.record("VisionTransformer", key).window_fraction
        inputs = prepare(comparison.image(key), model).input[None]
        [boxes] = explainer.field(inputs).windows.tolist()
        pairs = sum((right - left + 1) * (bottom - top + 1) for left, top, right, bottom in boxes)
        assert found == (pytest.approx(pairs / len(boxes) ** 2) if same else None)


def test_window_fractions_follow_the_options_of_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float, bool]] = []
    original = vi.ResponsiveFieldSize.field_from

    def watched(self: vi.ResponsiveFieldSize, *arguments: Any) -> Any:
        seen.append((self.alpha, self.coverage, arguments[2] is not None))
        return original(self, *arguments)

    monkeypatch.setattr(vi.ResponsiveFieldSize, "field_from", watched)
    options = {"alpha": 0.2, "coverage": 0.7, "exclude_sinks": True}
    compare(root, methods=["responsive_field_size"], metrics=["pointing_game"], **options)
    assert set(seen) == {(0.2, 0.7, True)}  # the windows of the map, and those of the fraction
    assert len(seen) == 2 * (1 + 4)
