"""Scores of maps: a metric that raises, random numbers, boxes, and models without classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.comparing import FIRST, METHODS, PROBABILITY, make_metric, value
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.images.boxes import ObjectBox, inside_boxes
from vit_interactions.metrics import METRICS, Case, Score


@pytest.mark.parametrize(
    ("measure", "error", "reason"),
    [
        (lambda case, patch_map: 1 / 0, "ZeroDivisionError", "division by zero"),
        (lambda case, patch_map: Score(float("nan")), "ValueError", "must return a finite value, got nan"),
        (lambda case, patch_map: 0.5, "TypeError", "must return a Score, got float"),
    ],
)
def test_a_metric_that_raises_loses_its_own_values_only(
    measure: Callable[[Case, Tensor], Score],
    error: str,
    reason: str,
    model: nn.Module,
    image_files: list[Path],
) -> None:
    comparison = vi.compare(image_files[:1], model, METHODS, [make_metric("broken", measure), FIRST])
    failures = comparison.failures()
    assert failures["method"].tolist() == METHODS
    assert set(failures["metric"]) == {"broken"}
    assert set(failures["error"]) == {error}
    assert all(reason in text for text in failures["reason"])
    assert (comparison.table()["metric"] == "first").sum() == len(METHODS)
    assert not (comparison.table()["metric"] == "broken").any()


def test_random_numbers_of_one_method_do_not_affect_others(model: nn.Module, image_files: list[Path]) -> None:
    draw = make_metric("draw", lambda case, patch_map: Score(float(torch.rand(1)) + np.random.rand() + case.seed))
    state = torch.get_rng_state()
    alone = vi.compare(image_files[:2], model, ["random_map"], [draw])
    both = vi.compare(image_files[1::-1], model, METHODS, [PROBABILITY, make_metric("other", draw.measure), draw])
    assert torch.equal(torch.get_rng_state(), state)
    values = {value(alone, key, "random_map", "draw") for key in ("square", "tall")}
    assert len(values) == 2
    assert values == {value(both, key, "random_map", "draw") for key in ("square", "tall")}
    other = vi.compare(image_files[:2], model, ["random_map"], [draw], seed=1)
    assert value(other, "tall", "random_map", "draw") not in values


def test_metrics_may_explain_again(model: nn.Module, image_files: list[Path]) -> None:
    def same(case: Case, patch_map: Tensor) -> Score:
        assert case.explain is not None
        maps = case.explain(case.model, case.inputs.expand(2, -1, -1, -1), case.target)
        return Score(float((maps[1].double() - patch_map).abs().max()))

    comparison = vi.compare(
        image_files[:1], model, METHODS, [make_metric("same", same, ("explain",)), PROBABILITY]
    )
    for method in METHODS:
        assert value(comparison, "square", method, "same") < 1e-6


def test_boxes_choose_patches_and_the_target(model: nn.Module, image_files: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(
        "file,index,left,top,right,bottom,wnid\n"
        "tall.png,3,0,20,40,70,n1\n"
        "tall.png,4,0,0,70,120,n2\n"
        "wide.png,1,50,10,60,20,n3\n"
    )
    seen = {}

    def look(case: Case, patch_map: Tensor) -> Score:
        assert case.inside is not None
        seen[case.target] = case.inside
        return Score(float(case.inside.double().mean()))

    metrics = [make_metric("look", look, ("object",)), METRICS["pointing_game"]]
    comparison = vi.compare(image_files, model, ["gmar"], metrics, boxes=table, target="boxes")
    assert comparison.settings["target"] == "boxes"
    for path, box in (
        (image_files[1], ObjectBox(0, 20, 40, 70, 3)),
        (image_files[2], ObjectBox(50, 10, 60, 20, 1)),
    ):
        assert comparison.record("VisionTransformer", path.stem).target == box.index
        image = prepare(read_image(path), model)
        layout = vi.token_layout(model, (64, 64))
        expected = torch.zeros(4, 4, dtype=torch.bool)
        for row in range(4):
            for col in range(4):
                x = image.placement.left + (16 * col + 8) * image.placement.scale_x
                y = image.placement.top + (16 * row + 8) * image.placement.scale_y
                expected[row, col] = box.left <= x <= box.right and box.top <= y <= box.bottom
        assert torch.equal(inside_boxes(image, layout, [box]), expected)
        assert torch.equal(seen[box.index], expected)
        gmar = vi.GMAR(model).patch_map(image.input[None], box.index)[0]
        np.testing.assert_array_equal(comparison.maps("VisionTransformer", path.stem)["gmar"], gmar)
    assert 0 < seen[3].sum() < 16
    (photo,) = [photo for photo in comparison.images if photo.error is not None]
    assert photo.key == "square"
    assert "needs a box with a class" in photo.error
    # Boxes of another class than the explained one do not count.
    comparison = vi.compare(image_files[2:], model, ["gmar"], metrics, boxes=table, target=0)
    assert set(comparison.failures()["metric"]) == {"look", "pointing_game"}
    assert set(comparison.failures()["reason"]) == {"this image has no box of the target class."}
    assert comparison.record("VisionTransformer", "wide").target == 0


def test_a_model_without_classes_is_measured_by_boxes(image_files: list[Path], tmp_path: Path) -> None:
    features = timm.create_model("test_vit", num_classes=0, img_size=64)
    (tmp_path / "boxes.csv").write_text("file,left,top,right,bottom\nwide.png,40,0,90,70\n")
    comparison = vi.compare(
        image_files[2:],
        features,
        ["raw_attention", "gmar"],
        ["pointing_game", PROBABILITY],
        boxes=tmp_path / "boxes.csv",
    )
    assert comparison.record("VisionTransformer", "wide").prediction is None
    assert value(comparison, "wide", "raw_attention", "pointing_game") in (0, 1)
    failures = comparison.failures().set_index(["method", "metric"])["reason"]
    assert "no classes" in failures["raw_attention", "probability"]
    assert "`target`" in failures["gmar", ""]
