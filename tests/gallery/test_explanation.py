"""Failed methods lose only their own maps; titles state the readout that a method used."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.families import tiny
from tests.helpers.transformers_models import TABLE
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import prepare
from vit_interactions.functional.feature_pca import principal_components
from vit_interactions.gallery.explanation import Explanation, explain_image
from vit_interactions.gallery.run import ExplainResult, explain_images
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def explained(image: Path, model: torch.nn.Module, *methods: str) -> Explanation:
    return explain_image(model, prepare(read_image(image), model), Settings("test_vit", "own", methods))


def test_class_specific_methods_fail_alone_without_classes(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TABLE["siglip"].build().save_pretrained(tmp_path / "model")
    out, name = tmp_path / "out", f"hf:{tmp_path / 'model'}"
    assert (
        run("explain", image, "--model", name, "--method", "raw_attention", "--method", "legrad", "--out", out)
        == 1
    )
    shown = " ".join(capsys.readouterr().err.split())
    assert f"Wrote 1 explanation to {out}/" in shown
    assert (
        f"failed: {image}: legrad: `target` must be a function of the output for a model whose output is neither"
        in shown
    )
    model = load_model(name)
    maps = np.load(out / "noise" / "maps.npz")
    assert maps.files == ["raw_attention"]
    inputs = prepare(read_image(image), model).input[None]
    assert torch.equal(torch.from_numpy(maps["raw_attention"]), vi.RawAttention(model).patch_map(inputs)[0])
    manifest = json.loads((out / "noise" / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["legrad"]
    assert manifest["unsupported"] == {}
    report = json.loads((out / "manifest.json").read_text())
    assert report["failed"] == {}
    assert report["failed_methods"] == {str(image): manifest["failed"]}


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError])
def test_resume_retries_failed_methods(
    error: type[Exception], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model("test_vit", num_classes=5).eval()
    settings = Settings("test_vit", "own", ("raw_attention", "attention_rollout"))

    def reports() -> ExplainResult:
        (report,) = explain_images(model, [image], settings, tmp_path / "out", resume=True)
        return report

    def broken(*_: object) -> None:
        raise error("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(vi.AttentionRollout, "_explain", broken)
        report = reports()
    assert report.done == {str(image): "noise"}
    assert report.failed_methods == {str(image): {"attention_rollout": "out of luck"}}
    report = reports()
    assert report.failed_methods == {}
    assert np.load(tmp_path / "out" / "noise" / "maps.npz").files == ["raw_attention", "attention_rollout"]
    made = (tmp_path / "out" / "noise" / "maps.npz").stat().st_mtime_ns
    reports()
    assert (tmp_path / "out" / "noise" / "maps.npz").stat().st_mtime_ns == made


def test_failing_uncertainty_fails_interaction_methods_only(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(vi.InteractionUncertainty, "interactions", broken)
    model = timm.create_model("test_vit", num_classes=5).eval()
    found = explained(image, model, "responsive_field_size", "raw_attention", "interaction_uncertainty")
    assert found.facts["failed"] == dict.fromkeys(
        ("responsive_field_size", "interaction_uncertainty"), "no memory"
    )
    assert list(found.arrays) == list(found.figures) == ["raw_attention"]
    with pytest.raises(ValueError, match=r"^no memory$"):
        explained(image, model, "responsive_field_size", "interaction_uncertainty")


@pytest.mark.parametrize(
    ("options", "readout", "words"),
    [
        ({}, "token", ""),
        ({"global_pool": "avg"}, "avg", ", read from the mean of the tokens"),
        ({"global_pool": "map", "class_token": False}, "map", ", read from the pooling head"),
    ],
    ids=["token", "avg", "map"],
)
def test_title_states_the_readout_of_daam(
    options: dict[str, object], readout: str, words: str, image: Path, tmp_path: Path
) -> None:
    model = timm.create_model("test_vit", num_classes=5, **options).eval()
    names = ("raw_attention", "dynamic_accumulated_attention")
    (_,) = explain_images(model, [image], Settings("test_vit", "own", names), tmp_path / "out")
    readouts = json.loads((tmp_path / "out" / "noise" / "manifest.json").read_text())["readouts"]
    assert readouts == {"dynamic_accumulated_attention": readout}
    figures = explained(image, model, *names).figures
    for name in (names[1], f"{names[1]}_frames"):
        title = " ".join(figures[name].get_suptitle().split())
        assert title.startswith(f"dynamic_accumulated_attention{words} (predicted: class ")
    assert "read from" not in figures["raw_attention"].get_suptitle()


@pytest.fixture
def many_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("vit_interactions.functional.attention_sinks")
    monkeypatch.setattr(module, "FAIR_SHARES", 1.3)
    monkeypatch.setattr(module, "DEVIATIONS", 0.0)


@pytest.mark.usefixtures("many_sinks")
@pytest.mark.parametrize("exclude", [False, True])
def test_sinks_are_marked_and_left_out_on_request(image: Path, exclude: bool) -> None:
    model = tiny("vit_tiny_patch16_224", img_size=96)
    methods = ("interaction_uncertainty", "responsive_field_size", "attention_rollout", "raw_attention")
    prepared = prepare(read_image(image), model)
    settings = Settings("vit", "own", methods, exclude_sinks=exclude)
    found = explain_image(model, prepared, settings)
    sinks = vi.attention_sinks(model, prepared.input[None]).patches.reshape(6, 6)
    assert 0 < sinks.sum() < 36
    assert found.facts["attention_sinks"] == {"patches": sinks.nonzero().tolist(), "excluded": exclude}
    assert settings.as_json()["exclude_sinks"] == exclude
    for name in methods:
        assert len(found.figures[name].axes[1].lines[0].get_xydata()) == sinks.sum()
    panels = [axes for axes in found.figures["patch_interactions"].axes if "Patch 1" in axes.get_title()]
    assert [len(line.get_xydata()) for line in panels[0].lines] == [sinks.sum()]
    assert ("without attention sinks" in found.figures["responsive_fields"].get_suptitle()) == exclude
    assert bool((found.arrays["uncertainty"][:, sinks.flatten()] == 0).all()) == exclude
    assert bool((found.arrays["interaction_uncertainty"][sinks] == 0).all()) == exclude
    assert bool((found.arrays["attention_rollout"][sinks] == 0).all()) == exclude
    assert (found.arrays["raw_attention"] > 0).all()
    expected = vi.ResponsiveFieldSize(model, exclude_sinks=exclude).patch_map(prepared.input[None])[0]
    assert np.array_equal(found.arrays["responsive_field_size"], expected.numpy())


@pytest.mark.usefixtures("many_sinks")
def test_sinks_are_marked_without_patch_interactions(image: Path) -> None:
    model = tiny("vit_tiny_patch16_224", img_size=96)
    found = explained(image, model, "raw_attention")
    assert found.facts["attention_sinks"]["patches"]
    assert found.figures["raw_attention"].axes[1].lines
    assert "attention_sinks" not in explained(image, model, "random_map").facts


def test_similarity_of_chosen_patches_and_principal_components_are_drawn(image: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5).eval()
    prepared = prepare(read_image(image), model)
    settings = Settings("test_vit", "own", ("patch_similarity:layer=2",), patches=((1, 2), (3, 0)), pca=-2)
    explanation = explain_image(model, prepared, settings)
    name = "patch_similarity:layer=2"
    figures = explanation.figures
    assert set(figures) == {"patch_similarity_layer=2", "patch_similarity_layer=2_patches", "pca"}
    titles = [axes.get_title() for axes in figures["patch_similarity_layer=2_patches"].axes if axes.get_title()]
    assert titles == ["Patch 1, row 1, col 2", "Patch 2, row 3, col 0"]
    inputs = prepared.input[None]
    expected = vi.PatchSimilarity(model, layer=2).patch_map(inputs)[0]
    assert torch.equal(torch.from_numpy(explanation.arrays[name]), expected)
    found = principal_components(vi.patch_features(model, inputs, -2))
    assert np.allclose(explanation.arrays["pca"].reshape(-1, 3), found.scores[0])
    assert np.allclose(explanation.facts["pca_explained"], found.explained[0])


def test_principal_components_of_a_layer_that_does_not_exist_fail_alone(image: Path) -> None:
    model = timm.create_model("test_vit", num_classes=5).eval()
    settings = Settings("test_vit", "own", ("raw_attention",), pca=6)
    explanation = explain_image(model, prepare(read_image(image), model), settings)
    assert explanation.facts["failed"] == {"pca": "`layer` must lie in [-6, 5] for this model, got 6."}
    assert set(explanation.arrays) == {"raw_attention"}
