"""Test that a comparison gives the same numbers as its parts on their own, whatever else fails."""

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import vit_interactions as vi
from tests.helpers.comparing import FIRST, METHODS, PROBABILITY, value
from vit_interactions.compare import run as running
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.predictions import Prediction


def test_maps_and_values_are_those_of_the_methods_and_metrics(model: nn.Module, image_files: list[Path]) -> None:
    comparison = vi.compare(image_files, model, METHODS, [FIRST, PROBABILITY], alpha=0.05)
    assert comparison.models == ["VisionTransformer"]
    assert comparison.methods == METHODS
    assert comparison.metrics == ["first", "probability"]
    assert comparison.failures().empty
    assert comparison.unfinished == 0
    assert set(comparison.table()["metric"]) >= {"first", "probability", "seconds", "forwards"}
    for path in image_files:
        image = prepare(read_image(path), model)
        inputs = image.input[None]
        scores = model(inputs)[0].detach().double().softmax(-1)
        record = comparison.record("VisionTransformer", path.stem)
        assert record.prediction == Prediction(int(scores.argmax()), None, float(scores.max()), "softmax")
        assert record.target == record.prediction.index
        assert record.layout == vi.token_layout(model, (64, 64))
        assert record.placement == image.placement
        assert comparison.image(path.stem).tobytes() == Image.open(path).tobytes()
        maps = comparison.maps("VisionTransformer", path.stem)
        expected = {
            "raw_attention": vi.RawAttention(model).patch_map(inputs),
            # Smaller fields are more relevant.
            "responsive_field_size": -vi.ResponsiveFieldSize(model, alpha=0.05).patch_map(inputs),
            "gmar": vi.GMAR(model).patch_map(inputs, record.target),
            "random_map": vi.RandomMap(model).patch_map(inputs),
        }
        assert list(maps) == METHODS
        for method, values in expected.items():
            np.testing.assert_array_equal(maps[method], values[0].double().numpy())
            assert value(comparison, path.stem, method, "first") == maps[method][0, 0]
            assert value(comparison, path.stem, method, "probability") == record.prediction.score
            assert value(comparison, path.stem, method, "seconds") > 0
            assert value(comparison, path.stem, method, "forwards") > 0
    curves = comparison.curves("VisionTransformer", "first")
    for method in METHODS:
        mean = np.mean([comparison.maps("VisionTransformer", p.stem)[method][0, 0] for p in image_files])
        np.testing.assert_allclose(curves[method], [[0, 1], [1, mean]], rtol=1e-12)
    assert comparison.curves("VisionTransformer", "probability") == {}
    summary = comparison.summary().set_index(["method", "metric"])
    for method in METHODS:
        values = [value(comparison, path.stem, method, "first") for path in image_files]
        row = summary.loc[(method, "first")]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert min(values) <= row["low"] <= row["mean"] <= row["high"] <= max(values)
        assert (row["images"], row["direction"]) == (3, "higher")
    assert (summary.xs("seconds", level="metric")["direction"] == "lower").all()


def test_a_method_that_raises_loses_its_own_values_only(
    model: nn.Module, image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vi.compare(image_files, model, METHODS, [FIRST]).table()

    def broken(*_: object) -> None:
        raise KeyError("<script>\x1b")

    monkeypatch.setattr(vi.GMAR, "_explain", broken)
    comparison = vi.compare(image_files, model, METHODS, [FIRST])
    failures = comparison.failures()
    assert failures["method"].tolist() == ["gmar"] * 3
    assert set(failures["metric"]) == {""}
    assert set(failures["error"]) == {"KeyError"}
    assert set(failures["reason"]) == {"KeyError: '<script>\\x1b'"}
    assert "gmar" not in comparison.maps("VisionTransformer", "wide")
    left = whole[(whole["method"] != "gmar") & (whole["metric"] == "first")]
    table = comparison.table()
    assert table[table["metric"] == "first"].to_numpy().tolist() == left.to_numpy().tolist()


def test_the_part_that_the_interaction_methods_share_fails_for_them_alone(
    model: nn.Module, image_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(vi.InteractionUncertainty, "interactions", broken)
    names = ["interaction_uncertainty", "responsive_field_size", "raw_attention"]
    comparison = vi.compare(image_files[:1], model, names, [FIRST])
    assert comparison.failures()["method"].tolist() == names[:2]
    assert set(comparison.table()["method"]) == {"raw_attention"}


def test_temporary_results_are_deleted(model: nn.Module, image_files: list[Path]) -> None:
    comparison = vi.compare(image_files[:1], model, ["raw_attention"], [])
    folder = comparison.folder
    assert folder.exists()
    del comparison
    gc.collect()
    assert not folder.exists()


def test_a_comparison_that_raises_leaves_nothing_behind(
    model: nn.Module, image_files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measure_batch", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        vi.compare(image_files, model, ["raw_attention"], [])
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
