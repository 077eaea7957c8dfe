"""A comparison gives the numbers that its parts give one by one, whatever else goes wrong beside them."""

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.compare import run as running
from vit_interactions.compare.comparison import Comparison
from vit_interactions.compare.plan import slugs
from vit_interactions.compare.summary import bootstrap_intervals
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.images.boxes import ObjectBox, boxes_of_class, inside_boxes, read_boxes
from vit_interactions.loading.predictions import Prediction
from vit_interactions.metrics import METRICS, Case, Metric, Score

METHODS = ["raw_attention", "responsive_field_size", "gmar", "random_map"]


def make_metric(name: str, measure: Callable[[Case, Tensor], Score], needs: tuple[str, ...] = ()) -> Metric:
    """Make a metric for the tests."""
    return Metric(name, "higher", (0.0, 1.0), "these tests", {"of": name}, frozenset(needs), "nothing", measure)


def _first(case: Case, patch_map: Tensor) -> Score:
    curve = torch.tensor([[0.0, 1.0], [1.0, float(patch_map[0, 0])]], dtype=torch.float64)
    return Score(float(patch_map[0, 0]), curve)


def _probability(case: Case, patch_map: Tensor) -> Score:
    with torch.no_grad():
        return Score(float(case.model(case.inputs)[0].double().softmax(-1)[case.target]))


FIRST, PROBABILITY = make_metric("first", _first), make_metric("probability", _probability)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=5, img_size=64)
    for block in vit.blocks:  # sharper than at the start of training, so that maps differ
        block.attn.qkv.weight.data.mul_(10)
    return vit.eval()


@pytest.fixture
def image_files(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, size in (("square", (70, 70, 3)), ("tall", (120, 70, 3)), ("wide", (70, 120, 3))):
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def value(comparison: Comparison, image: str, method: str, metric: str) -> float:
    """Return one value of the table."""
    table = comparison.table().set_index(["image", "method", "metric"])
    return float(table.loc[(image, method, metric), "value"])


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


def test_differences_are_paired_by_image(model: nn.Module, image_files: list[Path]) -> None:
    comparison = vi.compare(image_files, model, METHODS, [FIRST])
    found = comparison.against("random_map")
    assert set(found["method"]) == set(METHODS[:-1])
    rows = found.set_index(["method", "metric"])
    for method in METHODS[:-1]:
        differences = [
            value(comparison, path.stem, method, "first") - value(comparison, path.stem, "random_map", "first")
            for path in image_files
        ]
        row = rows.loc[(method, "first")]
        assert row["mean"] == pytest.approx(np.mean(differences))
        low, high = bootstrap_intervals(np.array(differences)[:, None])
        assert (row["low"], row["high"]) == (pytest.approx(low[0]), pytest.approx(high[0]))
        assert row["images"] == 3
    with pytest.raises(ValueError, match=r"`method` must be one of raw_attention, .* got 'gradcam'"):
        comparison.against("gradcam")


def test_agreement_is_the_mean_of_the_images(model: nn.Module, image_files: list[Path]) -> None:
    from scipy.stats import spearmanr

    comparison = vi.compare(image_files, model, METHODS, [])
    found = comparison.agreement("VisionTransformer")
    assert list(found.index) == list(found.columns) == METHODS
    pairs = [comparison.maps("VisionTransformer", path.stem) for path in image_files]
    expected = np.mean(
        [spearmanr(maps["gmar"].ravel(), maps["raw_attention"].ravel()).statistic for maps in pairs]
    )
    assert found.loc["gmar", "raw_attention"] == pytest.approx(expected)
    assert found.loc["gmar", "gmar"] == pytest.approx(1)


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

    monkeypatch.setattr(vi.InteractionUncertainty, "uncertainty", broken)
    names = ["interaction_uncertainty", "responsive_field_size", "raw_attention"]
    comparison = vi.compare(image_files[:1], model, names, [FIRST])
    assert comparison.failures()["method"].tolist() == names[:2]
    assert set(comparison.table()["method"]) == {"raw_attention"}


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


def test_several_models_and_pillow_images(model: nn.Module) -> None:
    torch.manual_seed(1)
    other = timm.create_model("test_vit", num_classes=3, img_size=96).train()
    modes = [module.training for module in other.modules()]
    sideways = Image.effect_noise((60, 90), 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    images = [Image.effect_noise((80, 60), 50), sideways]
    sideways.getexif().update(exif)
    comparison = vi.compare(images, {"small": model, "<b>large</b>": other}, ["raw_attention"], [PROBABILITY])
    assert comparison.models == ["small", "<b>large</b>"]
    assert [image.key for image in comparison.images] == ["image-1", "image-2"]
    assert comparison.image("image-1").size == (80, 60)
    assert comparison.image("image-2").size == (90, 60)
    assert comparison.maps("small", "image-1")["raw_attention"].shape == (4, 4)
    assert comparison.maps("<b>large</b>", "image-1")["raw_attention"].shape == (6, 6)
    assert [module.training for module in other.modules()] == modes
    assert comparison.table().groupby("model").size().tolist() == [len(comparison.table()) // 2] * 2
    other.eval()
    expected = vi.compare(images, other, ["raw_attention"], [PROBABILITY])
    table = comparison.table()
    mine = table[(table["model"] == "<b>large</b>") & (table["metric"] == "probability")]["value"].tolist()
    assert mine == expected.table().query("metric == 'probability'")["value"].tolist()
    shown = comparison._repr_html_()
    assert "&lt;b&gt;large&lt;/b&gt;" in shown
    assert "<b>" not in shown


def test_folders_distinguish_the_boxes_of_images_with_one_name(model: nn.Module, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = [tmp_path / place / "cat.png" for place in ("one/pets", "other/pets", "other/wild")]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    images = [*paths, Image.open(paths[2])]
    table = tmp_path / "boxes.csv"

    def boxes(*names: str) -> list[list[float]]:
        rows = [f"{name},{left},0,64,64\n" for left, name in enumerate(names)]
        table.write_text("file,left,top,right,bottom\n" + "".join(rows))
        comparison = vi.compare(images, model, ["random_map"], ["iou"], boxes=table)
        assert len(comparison.failures()) == sum(not each.boxes for each in comparison.images)
        return [[box.left for box in each.boxes] for each in comparison.images]

    # A Pillow image counts as the file that it was opened from.
    assert boxes("one/pets/cat.png", "wild/cat.png", "./other/pets/cat.png") == [[0], [2], [1], [1]]
    assert boxes("wild/cat.png", str(paths[2]), "dog.png", "ts/cat.png", "wild/cat.png") == [
        [],
        [],
        *[[0, 4, 1]] * 2,
    ]
    for name, places in {
        "cat.png": ("one/pets", "other/pets"),
        "pets/cat.png": ("one/pets", "other/pets"),
    }.items():
        both = ".*".join(f"{place}/cat" for place in places)
        with pytest.raises(
            ValueError, match=f"`boxes` must identify each image, got '{name}', which matches .*{both}"
        ):
            boxes(name)
    # One image that is given twice is one.
    twice = vi.compare([paths[0], paths[0]], model, ["random_map"], [], boxes=table_of(table, "cat.png"))
    assert [len(each.boxes) for each in twice.images] == [1, 1]


def table_of(path: Path, name: str) -> Path:
    path.write_text(f"file,left,top,right,bottom\n{name},0,0,64,64\n")
    return path


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


def test_wrong_arguments_raise_before_anything_is_computed(
    model: nn.Module, image_files: list[Path], tmp_path: Path
) -> None:
    def refused(match: str, *arguments: object, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            vi.compare(*arguments, **options)  # type: ignore[arg-type]

    refused("`images` must contain at least one image, got none", [], model)
    (tmp_path / "empty").mkdir()
    refused("which contains none", [tmp_path / "empty"], model)
    refused("which does not exist", [tmp_path / "gone.png"], model)
    refused("Did you mean gmar", image_files, model, ["gmarr"])
    refused("`methods` must name at least one", image_files, model, [])
    refused(r"got 'pointing_gam'\. Did you mean pointing_game", image_files, model, None, ["pointing_gam"])
    refused("`boxes` or `masks` must be given", image_files, model, None, ["pointing_game"])
    refused("'first' twice", image_files, model, None, [FIRST, FIRST])
    refused("`target` must be a class >= 0", image_files, model, target="label")
    refused("`target` must be a class >= 0", image_files, model, target=-1)
    refused("`boxes` must be given for `target`", image_files, model, target="boxes")
    refused("`alpha` must lie in", image_files, model, alpha=2)
    refused("`model` must name at least one", image_files, {})
    refused("pretrained_cfg", image_files, nn.Linear(1, 1))
    refused("`out` must be a folder to resume", image_files, model, resume=True)
    refused("`batch_size` must be an int >= 1, got 0", image_files, model, batch_size=0)
    refused("must be an empty folder or that of a comparison", image_files, model, out=image_files[0].parent)
    refused("is a file", image_files, model, out=image_files[0])
    with pytest.raises(TypeError, match=r"`model` must be a name, a model, or a dict .* got list"):
        vi.compare(image_files, [model])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`methods` must be names, or a mapping .* got GMAR in a list\."):
        vi.compare(image_files, model, [vi.GMAR(model)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"`metrics` must be names or .*Metric`, got function"):
        vi.compare(image_files, model, ["gmar"], [_first])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError, match=r"`boxes` must be a file, got nothing at .*no\.csv"):
        vi.compare(image_files, model, boxes=tmp_path / "no.csv")
    with pytest.raises(TypeError, match="`images` must be paths or Pillow images, got int"):
        vi.compare([3], model)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"has no comparison\.json"):
        Comparison.open(image_files[0].parent)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,left,top,right,bottom\nother.png,0,0,1,1\n")
    refused("got e.g. 'other.png'", image_files, model, boxes=boxes)
    assert sorted(path.name for path in image_files[0].parent.iterdir()) == ["square.png", "tall.png", "wide.png"]


@pytest.mark.parametrize(
    "row", ["a,x,0,1,1,1", "a,0,0,1", "a,1,0,1,1,1", "a,0,0,1,1,-1", "a,0,0,inf,1,1", "a,0,0,1,1,x"]
)
def test_invalid_boxes_raise(row: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(f"file,left,top,right,bottom,index\na,0,0,1,1,2\n{row}\n")
    with pytest.raises(ValueError, match=r"`boxes` must have numbers .*, got .* in line 3 of"):
        read_boxes(path)


def test_boxes_are_read() -> None:
    assert boxes_of_class([ObjectBox(0, 0, 1, 1, 3), ObjectBox(0, 0, 1, 1, 4)], 4) == [ObjectBox(0, 0, 1, 1, 4)]


def test_boxes_need_their_columns(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("file,left,top\n")
    with pytest.raises(
        ValueError, match=r"`boxes` must have a column right and bottom, got .* with file, left, top"
    ):
        read_boxes(tmp_path / "boxes.csv")


def test_keys_are_unique_file_names() -> None:
    names = ["../../etc/passwd", "<script>alert(1)</script>.png", "A.png", "a.jpg", "..", "x" * 300, "\udcff.png"]
    keys = slugs(names)
    assert keys == ["etc-passwd", "script-alert-1-script", "a", "a-2", "unnamed", "x" * 60, "unnamed-2"]
