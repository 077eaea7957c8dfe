"""Tests of maps of zeros: when they are correct, and the warning and command-line note that come with them."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from vit_interactions_adapters.methods import METHODS

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.explaining import images, make, small_vit
from tests.helpers.families import tiny
from tests.helpers.planted import planted_image, planted_map, planted_model
from vit_interactions.explain.registry import all_methods
from vit_interactions.explain.settings import Settings
from vit_interactions.figures import prepare
from vit_interactions.gallery.explanation import ZERO_NOTE, explain_image
from vit_interactions.images import read_image

# Methods that a score without gradient leaves nothing of; GMAR's heads then all weigh the same.
OF_GRADIENTS = [
    name for name, method in vi.EXPLAINERS.items() if method.class_specific and name not in ("gmar", "random_map")
]
OF_PIXELS = [
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "gradient_shap",
    "occlusion",
    "feature_ablation",
]


def constant(output: Tensor) -> Tensor:
    """Compute a score that does not depend on the image."""
    return 0 * output[:, 1]


@pytest.mark.parametrize("name", [*OF_GRADIENTS, *OF_PIXELS])
def test_a_score_that_depends_on_nothing_gives_zeros_and_a_warning(name: str) -> None:
    explainer, inputs = make(all_methods()[name], small_vit()), images(2)
    message = (
        rf"^{type(explainer).__name__} found nothing in images 0, 1 of a batch of 2: the map is zero everywhere\.$"
    )
    with pytest.warns(vi.ZeroMapWarning, match=message) as caught:
        patch_map = explainer.patch_map(inputs, constant)
    assert (patch_map == 0).all()
    assert [warning.filename for warning in caught] == [__file__]  # once, at the line that asked
    with pytest.warns(vi.ZeroMapWarning, match=message):
        assert (explainer.attribute(inputs, target=constant) == 0).all()


def test_the_images_are_named() -> None:
    explainer, chosen = vi.GenericAttention(small_vit()), torch.tensor([0.0, 1.0, 0.0, 1.0])
    with pytest.warns(vi.ZeroMapWarning, match="nothing in images 0, 2 of a batch of 4"):
        patch_map = explainer.patch_map(images(4), lambda output: chosen * output[:, 1])
    assert patch_map.flatten(1).any(1).tolist() == [False, True, False, True]
    with pytest.warns(vi.ZeroMapWarning, match="nothing in image 0 of a batch of 1"):
        explainer.patch_map(images(1), constant)
    with pytest.warns(vi.ZeroMapWarning, match="DynamicAccumulatedAttention found nothing in image 0"):
        vi.DynamicAccumulatedAttention(small_vit()).frames(images(1), constant)
    with pytest.warns(UserWarning, match="nothing in image 0"):  # a user's own filters find it
        explainer.patch_map(images(1), constant)


def test_attention_that_does_not_vary_is_said_to_tell_nothing() -> None:
    model = small_vit()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] = 0.0
            block.attn.qkv.bias[:64] = 0.0
    explainer = vi.InteractionUncertainty(model)
    for patch in (None, (1, 2)):
        with pytest.warns(vi.ZeroMapWarning, match="InteractionUncertainty found nothing in images 0, 1"):
            assert (explainer.patch_map(images(2), patch=patch) == 0).all()


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_grad_cam_is_zero_where_no_patch_has_positive_evidence(heads: int) -> None:
    model, inputs = tiny("vit_tiny_patch16_224", img_size=64, num_heads=heads).double(), images(6).double()
    for block in model.blocks:
        block.attn.fused_attn = False
    seen: list[Tensor] = []
    handle = model.blocks[-1].attn.attn_drop.register_forward_hook(lambda *args: seen.append(args[2]))
    scores = model(inputs)
    handle.remove()
    found = []
    for target in range(5):
        (gradient,) = torch.autograd.grad(scores[:, target].sum(), seen, retain_graph=True)
        evidence = torch.zeros(6, 16, dtype=torch.float64)
        for image in range(6):
            for head in range(heads):
                weight = gradient[image, head, 0, 1:].mean()
                evidence[image] += weight * seen[0][image, head, 0, 1:].detach() / heads
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", vi.ZeroMapWarning)
            explain = vi.AttentionGradCAM(model).patch_map
            plus, minus = (explain(inputs, lambda output: sign * output[:, target]) for sign in (1, -1))  # noqa: B023
        torch.testing.assert_close(plus.flatten(1) - minus.flatten(1), evidence)
        assert torch.equal(plus.flatten(1).any(1), (evidence > 0).any(1))
        if heads == 1:  # attention is positive, so one head speaks for the class or against it at all patches
            assert torch.equal(plus.flatten(1).any(1), ~minus.flatten(1).any(1))
        found += plus.flatten(1).any(1).tolist()
    assert set(found) == {True, False}


def test_grad_cams_are_zero_where_no_patch_has_positive_evidence() -> None:
    model, image = planted_model(), planted_image()
    for name in ("gradcam", "hirescam", "layercam", "gradcam_plus_plus"):
        torch.testing.assert_close(METHODS[name](model).patch_map(image, 1) > 0, planted_map() > 0)
        # Red speaks for class 1, so it speaks against what is less of class 1.
        with pytest.warns(vi.ZeroMapWarning, match="found nothing in image 0 of a batch of 1"):
            patch_map = METHODS[name](model).patch_map(image, lambda output: -output[:, 1])
        assert (patch_map == 0).all()


@pytest.fixture
def blind(tmp_path: Path) -> Path:
    """Save a checkpoint whose scores do not depend on the image."""
    model = timm.create_model("test_vit", num_classes=5)
    with torch.no_grad():
        model.head.weight.zero_()
    save_file(model.state_dict(), tmp_path / "blind.safetensors")
    return tmp_path / "blind.safetensors"


def test_the_command_line_says_which_maps_are_zero(
    blind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(random.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    methods = ["--method", "generic_attention", "--method", "raw_attention"]
    options = ["--model", "test_vit", "--checkpoint", blind, "--out", tmp_path / "out", *methods]
    assert run("explain", tmp_path / "a.png", tmp_path / "b.png", *options) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "note: the map of generic_attention is zero everywhere for 2 images" in shown
    assert "map of raw_attention" not in shown
    assert json.loads((tmp_path / "out" / "a" / "manifest.json").read_text())["zero_maps"] == ["generic_attention"]
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())["zero_maps"]) == ["generic_attention"]


def test_the_figure_says_that_its_map_is_zero(tmp_path: Path) -> None:
    model = timm.create_model("test_vit").eval()
    with torch.no_grad():
        model.head.weight.zero_()
    Image.effect_noise((90, 90), 80).save(tmp_path / "noise.png")
    prepared = prepare(read_image(tmp_path / "noise.png"), model)
    settings = Settings("test_vit", None, ("generic_attention", "indiscriminative_patches"))
    figures = explain_image(model, prepared, settings).figures
    title = {each.name: " ".join(figures[each.name].get_suptitle().split()) for each in settings.methods}
    assert title["generic_attention"].endswith(ZERO_NOTE)
    assert ZERO_NOTE not in title["indiscriminative_patches"]
