"""`vit-interactions explain`, on a small model with random weights and generated images."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vit_interactions as vi
from tests.helpers.command_line import explain, run
from vit_interactions.explain import registry
from vit_interactions.explain.interaction_uncertainty import InteractionExplainer
from vit_interactions.explain.registry import all_methods
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import prepare
from vit_interactions.gallery import run as gallery_run
from vit_interactions.gallery.explanation import explain_image
from vit_interactions.images import read_image
from vit_interactions.images.listing import find_images
from vit_interactions.loading.models import load_model

METHODS = ["--method", "attention_rollout", "--method", "interaction_uncertainty"]


def test_explain_writes_figures_raw_maps_and_a_manifest(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert explain(*images, "--patch", "2,3", "--alpha", "0.05", checkpoint=checkpoint, out=out) == 0
    for image in images:
        folder = out / image.stem
        manifest = json.loads((folder / "manifest.json").read_text())
        assert list(manifest["settings"]["methods"]) == registry.default_methods(
            load_model("test_vit", checkpoint)
        )
        assert {"attention_rollout", "gmar", "dynamic_accumulated_attention"} <= set(
            manifest["settings"]["methods"]
        )
        assert "random_map" not in manifest["settings"]["methods"]
        assert manifest["settings"]["patches"] == [[2, 3]]
        assert manifest["settings"]["alpha"] == 0.05
        assert torch.__version__.startswith(manifest["versions"]["torch"])
        drawn = {path.name for path in folder.iterdir()} - {"manifest.json", "maps.npz"}
        assert set(manifest["figures"]) == drawn
        assert (
            len(drawn) == len(manifest["settings"]["methods"]) - len(manifest["unsupported"]) + 3 + 2
        )  # DAAM's frames
        with Image.open(folder / "dynamic_accumulated_attention.gif") as animation:
            assert animation.n_frames == 6
        for figure in folder.glob("*.png"):
            with Image.open(figure) as drawing:
                assert drawing.convert("L").getextrema()[0] < 128 < drawing.convert("L").getextrema()[1]
        arrays = np.load(folder / "maps.npz")
        model = load_model("test_vit", checkpoint)
        inputs = prepare(read_image(image), model).input[None]
        assert torch.equal(
            torch.from_numpy(arrays["attention_rollout"]), vi.AttentionRollout(model).patch_map(inputs)[0]
        )
        uncertainty = vi.InteractionUncertainty(model).uncertainty(inputs)
        assert torch.equal(torch.from_numpy(arrays["uncertainty"]), uncertainty[0])
        fields = vi.responsive_field(uncertainty, (10, 10), 0.05, 0.2)
        assert torch.equal(torch.from_numpy(arrays["field_mask"]), fields.mask[0])
        assert manifest["field_fraction"] == int(fields.operations) / 100**2
        assert manifest["prediction"]["index"] == int(model(inputs).argmax())
        assert manifest["prediction"]["name"] is None
    assert json.loads((out / "manifest.json").read_text())["failed"] == {}


def test_broken_images_are_reported_and_skipped(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images[0].parent
    (folder / "text.jpg").write_text("<script>alert(1)</script>")
    (folder / "truncated.png").write_bytes(images[0].read_bytes()[:5000])
    (folder / "notes.txt").write_text("no image, and not tried")
    out = tmp_path / "out"
    assert explain(folder, "gone.png", *METHODS, checkpoint=checkpoint, out=out) == 1
    report = json.loads((out / "manifest.json").read_text())
    assert [Path(path).name for path in report["done"]] == ["tall.png", "wide.png"]
    assert [Path(path).name for path in report["failed"]] == ["text.jpg", "truncated.png", "gone.png"]
    shown = capsys.readouterr().err
    assert f"Wrote 2 explanations to {out}/; 3 of 5 images failed\n" in shown
    assert "text.jpg" in shown
    assert "truncated.png" in shown
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "tall", "wide"]


def test_resume_keeps_results_of_the_same_settings(
    checkpoint: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    explained: list[object] = []
    original = gallery_run.explain_image

    def counted(*arguments: object) -> object:
        explained.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery_run, "explain_image", counted)
    assert explain(images[0], *METHODS, checkpoint=checkpoint, out=out) == 0
    assert explain(*images, *METHODS, "--resume", checkpoint=checkpoint, out=out) == 0
    assert len(explained) == 2  # one image each time
    assert explain(*images, *METHODS, "--alpha", "0.2", "--resume", checkpoint=checkpoint, out=out) == 0
    assert len(explained) == 4  # other settings: both again
    Image.open(images[0]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(images[0])
    assert explain(*images, *METHODS, "--alpha", "0.2", "--resume", checkpoint=checkpoint, out=out) == 0
    assert len(explained) == 5  # another image of the same name: that one again
    assert explain(*images, *METHODS, checkpoint=checkpoint, out=out) == 0
    assert len(explained) == 7  # without --resume: all


def test_killed_run_leaves_complete_folders_and_resumes(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    script = (
        "import os, signal, vit_interactions.gallery.run as p\n"
        "original, seen = p.explain_image, []\n"
        "def killing(*arguments):\n"
        "    explanation = original(*arguments)\n"
        "    seen.append(1)\n"
        "    if len(seen) == 2:\n"
        "        figure = next(iter(explanation.figures.values()))\n"
        "        figure.savefig = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return explanation\n"
        "p.explain_image = killing\n"
        "from vit_interactions.cli.main import main\n"
        "main()\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, "explain", *images, *METHODS, "--model", "test_vit"]
    killed = subprocess.run(
        [*map(str, command), "--checkpoint", str(checkpoint), "--out", str(out)],
        capture_output=True,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((out / "manifest.json").read_text())["done"] == {str(images[0]): images[0].stem}
    assert not (out / images[1].stem).exists()
    first = (out / images[0].stem / "maps.npz").stat().st_mtime_ns
    assert explain(*images, *METHODS, "--resume", checkpoint=checkpoint, out=out) == 0
    assert (out / images[0].stem / "maps.npz").stat().st_mtime_ns == first
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "tall", "wide"]


def test_methods_with_options_stand_beside_their_defaults(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "out" / images[0].stem
    names = ["gmar", "gmar:norm=l1", "responsive_field_size", "responsive_field_size:alpha=0.2"]
    options = [option for name in names for option in ("--method", name)]

    def explained(*options: str) -> int:
        assert explain(images[0], *options, "--resume", checkpoint=checkpoint, out=out) == 0
        return (folder / "maps.npz").stat().st_mtime_ns

    first = explained(*options, "--alpha", "0.05")
    model = load_model("test_vit", checkpoint)
    inputs = prepare(read_image(images[0]), model).input[None]
    target = int(model(inputs).argmax())
    arrays = np.load(folder / "maps.npz")
    expected = [
        vi.GMAR(model).patch_map(inputs, target),
        vi.GMAR(model, norm="l1").patch_map(inputs, target),
        vi.ResponsiveFieldSize(model, alpha=0.05).patch_map(inputs),
        vi.ResponsiveFieldSize(model, alpha=0.2).patch_map(inputs),
    ]
    for name, maps in zip(names, expected, strict=True):
        assert torch.equal(torch.from_numpy(arrays[name]), maps[0]), name
    assert {path.name for path in folder.glob("*.png")} >= {"gmar.png", "gmar_norm=l1.png"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["figures"]) == {path.name for path in folder.glob("*.png")}
    described = manifest["settings"]["methods"]
    assert [described[name]["options"].get("norm") for name in names[:2]] == ["l2", "l1"]
    assert [described[name]["options"]["alpha"] for name in names[2:]] == [0.05, 0.2]
    assert explained(*options, "--alpha", "0.05") == first
    assert explained(*options[:3], "gmar:norm=l2", "--alpha", "0.05") != first  # written again with other options


def test_model_without_attention_is_explained_by_other_methods(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "resnet.safetensors")
    arguments = ["--model", "test_resnet", "--checkpoint", tmp_path / "resnet.safetensors"]
    assert run("explain", *images, *arguments, "--out", tmp_path / "out") == 0
    assert "note: ResNet made no call of" in capsys.readouterr().err
    assert {"attn_lrp", "gradcam"} <= set(np.load(tmp_path / "out" / "tall" / "maps.npz").files)
    arguments += ["--method", "gmar"]
    assert run("explain", *images, *arguments, "--out", tmp_path / "refused") != 0
    assert "Methods that need no attention remain" in " ".join(capsys.readouterr().err.split())


def test_weights_with_nan_are_reported(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("test_vit", checkpoint)
    model.blocks[1].attn.qkv.weight.data[0, 0] = torch.nan
    save_file(model.state_dict(), tmp_path / "nan.safetensors")
    assert explain(*images, *METHODS, checkpoint=tmp_path / "nan.safetensors", out=tmp_path / "out") == 1
    assert "is not finite" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_open_windows_are_noted(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = ["--method", "responsive_field_size"]
    assert explain(images[0], *method, "--alpha", "0.9", checkpoint=checkpoint, out=tmp_path / "out") == 0
    assert "cover almost all pairs" in " ".join(capsys.readouterr().err.split())
    assert explain(images[0], *method, "--alpha", "0.0", checkpoint=checkpoint, out=tmp_path / "out") == 0
    assert "cover almost all pairs" not in " ".join(capsys.readouterr().err.split())


def test_smooth_changes_figures_only(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    options = ["--method", "raw_attention"]
    assert explain(images[0], *options, checkpoint=checkpoint, out=tmp_path / "plain") == 0
    assert explain(images[0], *options, "--smooth", checkpoint=checkpoint, out=tmp_path / "smooth") == 0
    plain, smooth = (tmp_path / name / images[0].stem for name in ("plain", "smooth"))
    assert (plain / "raw_attention.png").read_bytes() != (smooth / "raw_attention.png").read_bytes()
    with np.load(plain / "maps.npz") as one, np.load(smooth / "maps.npz") as other:
        assert np.array_equal(one["raw_attention"], other["raw_attention"])
    settings = [json.loads((folder / "manifest.json").read_text())["settings"] for folder in (plain, smooth)]
    assert settings[1] == {**settings[0], "smooth": True}


def test_window_coverage_is_recorded_and_used(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    common = ["--method", "responsive_field_size", "--alpha", "0.3", "--beta", "0"]
    assert explain(images[0], *common, "--window-coverage", "0.7", checkpoint=checkpoint, out=tmp_path) == 0
    folder = tmp_path / images[0].stem
    settings = json.loads((folder / "manifest.json").read_text())["settings"]
    assert settings["coverage"] == settings["methods"]["responsive_field_size"]["options"]["coverage"] == 0.7
    arrays = np.load(folder / "maps.npz")
    uncertainty = torch.from_numpy(arrays["uncertainty"])[None]
    field = vi.responsive_field(uncertainty, (10, 10), 0.3, 0.0, coverage=0.7)
    assert np.array_equal(arrays["windows"], field.windows[0])
    assert np.array_equal(arrays["responsive_field_size"].ravel(), field.size[0])
    assert (field.operations < vi.responsive_field(uncertainty, (10, 10), 0.3, 0.0).operations).all()


def test_methods_of_other_libraries_next_to_ours(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    names = ["gradcam", "gmar", "saliency", "eigencam"]
    options = [option for name in names for option in ("--method", name)]
    assert explain(*images, *options, checkpoint=checkpoint, out=tmp_path / "out") == 0
    model = load_model("test_vit", checkpoint)
    for image in images:
        folder = tmp_path / "out" / image.stem
        manifest = json.loads((folder / "manifest.json").read_text())
        libraries = {name: described["library"] for name, described in manifest["settings"]["methods"].items()}
        assert libraries == dict(
            zip(names, ("pytorch-grad-cam", "vit_interactions", "captum", "pytorch-grad-cam"), strict=True)
        )
        assert {"captum", "grad-cam"} <= set(manifest["versions"])
        assert {path.name for path in folder.glob("*.png")} == {f"{name}.png" for name in names}
        inputs = prepare(read_image(image), model).input[None]
        arrays = np.load(folder / "maps.npz")
        for name in names:
            target = "pred" if name != "eigencam" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", vi.ZeroMapWarning)
                expected = all_methods()[name](model).patch_map(inputs, target)[0]
            assert torch.equal(torch.from_numpy(arrays[name]), expected)


def test_images_are_found_by_name_and_in_folders(images: list[Path], tmp_path: Path) -> None:
    assert find_images([images[1], images[0].parent]) == [images[1], *images]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folders that contain some, got .*empty, which contains none"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="got gone, which does not exist"):
        find_images([Path("gone")])


def test_patch_option_needs_an_interaction_method(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--method", "attention_rollout", "--patch", "1,1"]
    assert explain(*images, *arguments, checkpoint=checkpoint, out=tmp_path / "out") == 2
    assert "`--patch` must come with a patch-interaction method" in capsys.readouterr().err


def test_patch_and_pca_options_draw_features(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    arguments = ["--method", "patch_similarity", "--patch", "1,1", "--pca", "-1"]
    assert explain(images[0], *arguments, checkpoint=checkpoint, out=tmp_path / "out") == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    names = {path.name for path in folder.iterdir() if path.suffix == ".png"}
    assert names == {"patch_similarity.png", "patch_similarity_patches.png", "pca.png"}


def test_unusable_output_paths_fail_first(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(*images, *METHODS, checkpoint=checkpoint, out=checkpoint) == 2
    assert "`--out` must be a folder" in capsys.readouterr().err
    assert run("curve", *images, "--model", "test_vit", "--out", tmp_path / "curve.txt") == 2
    assert "`--out` must end in .png, .pdf or .svg" in capsys.readouterr().err


def test_a_second_run_into_the_same_folder_keeps_the_first_listed(
    checkpoint: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for image in images:
        assert explain(image, *METHODS[:2], checkpoint=checkpoint, out=out) == 0
    assert json.loads((out / "manifest.json").read_text())["done"] == {str(p): p.stem for p in images}


def test_user_folders_are_never_replaced(
    checkpoint: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "out" / "tall"
    theirs.mkdir(parents=True)
    (theirs / "data.txt").write_text("precious")
    assert explain(*images, *METHODS, checkpoint=checkpoint, out=tmp_path / "out") == 1
    assert (theirs / "data.txt").read_text() == "precious"
    assert "exists and is not a folder of explanations" in capsys.readouterr().err
    assert (tmp_path / "out" / "wide" / "maps.npz").exists()


def test_an_image_named_like_the_manifest(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    odd = images[0].rename(images[0].with_name("manifest.json.png"))
    assert explain(odd, *METHODS, checkpoint=checkpoint, out=tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["done"] == {str(odd): "manifest.json-2"}


def test_requested_method_that_is_unsupported_fails(
    checkpoint: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise vi.UnsupportedModelError("this model has no such thing")

    monkeypatch.setattr(vi.AttentionRollout, "_explain", refuse)
    names = ["raw_attention", "attention_rollout"]
    asked = [option for name in names for option in ("--method", name)]
    assert explain(images[0], *asked, checkpoint=checkpoint, out=tmp_path / "asked") == 1
    assert "failed: attention_rollout: this model has no such thing" in capsys.readouterr().err
    assert np.load(tmp_path / "asked" / "tall" / "maps.npz").files == ["raw_attention"]
    monkeypatch.setattr(registry, "default_methods", lambda model: names)
    assert explain(images[0], checkpoint=checkpoint, out=tmp_path / "default") == 0
    assert "note: attention_rollout skipped: this model has no such thing" in capsys.readouterr().err


def test_interaction_maps_share_one_forward_pass(images: list[Path]) -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    vi.probe(model, prepare(read_image(images[0]), model).input[None])
    passes.clear()
    methods = tuple(name for name, method in vi.EXPLAINERS.items() if issubclass(method, InteractionExplainer))
    explanation = explain_image(model, prepare(read_image(images[0]), model), Settings("test_vit", None, methods))
    assert len(passes) == 1
    inputs = prepare(read_image(images[0]), model).input[None]
    for name in methods:
        assert torch.equal(
            torch.from_numpy(explanation.arrays[name]), vi.EXPLAINERS[name](model).patch_map(inputs)[0]
        )


def test_titles_name_the_target_class(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    methods = ["--method", "gmar", "--method", "generic_attention"]
    for target in ("pred", "3"):
        out = tmp_path / target
        assert explain(images[0], *methods, "--target", target, checkpoint=checkpoint, out=out) == 0
    model = load_model("test_vit", checkpoint)
    inputs = prepare(read_image(images[0]), model).input[None]
    arrays = np.load(tmp_path / "3" / "tall" / "maps.npz")
    assert torch.equal(
        torch.from_numpy(arrays["generic_attention"]), vi.GenericAttention(model).patch_map(inputs, target=3)[0]
    )
    arrays = np.load(tmp_path / "pred" / "tall" / "maps.npz")
    predicted = int(model(inputs).argmax())
    assert torch.equal(torch.from_numpy(arrays["gmar"]), vi.GMAR(model).patch_map(inputs, target=predicted)[0])
    assert explain(images[0], "--target", "cat", checkpoint=checkpoint, out=tmp_path / "cat") == 2
    assert explain(images[0], *methods, "--target", "99", checkpoint=checkpoint, out=tmp_path / "99") == 2
