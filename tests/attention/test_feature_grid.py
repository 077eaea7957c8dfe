"""Tests of the feature grid of models without attention among patches, and of the methods that use it."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vit_interactions_adapters.captum_methods import CaptumLayerGradCam, CaptumOcclusion, CaptumSaliency
from vit_interactions_adapters.gradcam_methods import Gradcam, Hirescam

import vit_interactions as vi
from tests.helpers.explaining import assert_near
from tests.helpers.families import Family
from tests.helpers.twins import Outer
from tests.helpers.vision_models import vision_model
from vit_interactions.attention.feature_grid import FeatureGrid, cells, feature_grid, image_layout
from vit_interactions.attention.orientation import Orientation
from vit_interactions.attention.probe import WITHOUT_ATTENTION
from vit_interactions.explain.registry import all_methods, default_methods
from vit_interactions.metrics.randomization import attention_blocks, parameter_stages

WITHOUT = ("ResNet", "Swin", "Hiera", "CaiT")


def images(batch: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


class Features(nn.Module):
    """A patch embedding whose features come in a form of your choice, then their mean and a linear head."""

    def __init__(self, form: Callable[[Tensor], Tensor], axes: tuple[int, ...]) -> None:
        """Take what brings (batch, channels, rows, cols) into the form, and the axes to average over."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed, self.form, self.head = nn.Conv2d(3, 6, 16, 16), Form(form), nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.axes = axes

    def forward(self, image: Tensor) -> Tensor:
        """Compute the scores."""
        scores: Tensor = self.head(torch.relu(self.form(self.embed(image))).square().mean(self.axes))
        return scores


class Form(nn.Module):
    """A module that rearranges."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        """Take how."""
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange."""
        return self.form(x)


def tokens(x: Tensor) -> Tensor:
    """Lay features out as tokens row by row."""
    return x.flatten(2).transpose(1, 2)


FORMS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "channels first": (lambda x: x + 0, (2, 3)),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), (1, 2)),
    "tokens": (tokens, (1,)),
    "tokens behind others": (lambda x: F.pad(tokens(x), (0, 0, 2, 0)), (1,)),
    "tokens before others": (lambda x: F.pad(tokens(x), (0, 0, 0, 1)), (1,)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (64, 64)])
def test_every_form_of_features_is_found_and_gives_the_same_map(form: str, size: tuple[int, int]) -> None:
    model, plain = Features(*FORMS[form]).eval(), Features(*FORMS["channels first"]).eval()
    found = feature_grid(model, images(size=size))
    assert (found.name, found.layout.grid) == ("form", (size[0] // 16, size[1] // 16))
    assert image_layout(model, size).extent == size
    for method in (Gradcam, Hirescam):
        result = method(model).patch_map(images(size=size), target=1)
        expected = method(plain).patch_map(images(size=size), target=1)
        assert expected.any()
        if "others" in form:  # which take part in the mean that makes the scores
            count = size[0] * size[1] // 256
            expected = expected * (count / (count + 1 + (form == "tokens behind others")))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


REARRANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda x: tokens(x.flip(2)),
    "transposed": lambda x: tokens(x.transpose(2, 3)),
    "mirrored": lambda x: x.flip(3),
    "turned": lambda x: x.flip(2).transpose(2, 3),
    "turned, channels last": lambda x: x.rot90(1, (2, 3)).permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("size", [(64, 96), (64, 64)])
@pytest.mark.parametrize("form", REARRANGED)
def test_features_that_the_model_turns_are_placed_where_their_pixels_are(form: str, size: tuple[int, int]) -> None:
    order = REARRANGED[form]
    axes = (1,) if order(torch.zeros(1, 2, 4, 4)).ndim == 3 else (1, 2) if "last" in form else (2, 3)
    model, plain = Features(order, axes).eval(), Features(*FORMS["channels first"]).eval()
    assert feature_grid(model, images(size=size)).name == "form"
    for method in (Gradcam, Hirescam):
        for layer in (None, "form"):
            expected = method(plain).patch_map(images(size=size), target=1)
            result = method(model, layer=layer).patch_map(images(size=size), target=1)
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (lambda x: tokens(x)[:, ::3], r"the cells of `form` lie in no order of rows"),
        (lambda x: tokens(x)[:, torch.arange(16) * 7 % 16], r"the cells of `form` lie in no order of rows"),
        (lambda x: x.roll(2, 3), r"the cells of `form` lie in no order of rows and columns of the image"),
    ],
    ids=["some", "shuffled", "rolled"],
)
def test_features_in_another_order_are_no_place(order: Callable[[Tensor], Tensor], why: str) -> None:
    model = Features(order, (1,) if order(torch.zeros(1, 6, 4, 4)).ndim == 3 else (2, 3)).eval()
    assert feature_grid(model, images()).name == "embed"
    with pytest.raises(
        vi.UnsupportedModelError, match="`form` has no features that form a grid over the image"
    ) as no:
        Gradcam(model, layer="form").patch_map(images(), target=0)
    assert re.search(why, str(no.value))
    assert str(no.value).endswith(". Leave `layer` out for `embed`, or use occlusion.")
    with pytest.raises(
        vi.UnsupportedModelError, match=r"`head` gives \(1, 3\), which is not a grid of several cells over"
    ):
        Gradcam(model, layer="head").patch_map(images(), target=0)


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "transpose": lambda x: x.mT,
    "rot180": lambda x: x.flip(-1, -2),
    "rot90": lambda x: x.rot90(1, (-2, -1)),
}


@pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")
@pytest.mark.parametrize("kind", ["ResNet", "ConvNeXt", "Swin", "Hiera", "XCiT"])
def test_a_model_behind_a_turn_gives_the_turned_map(kind: str) -> None:
    plain, size = vision_model(kind), (64, 96) if kind in ("ResNet", "ConvNeXt") else (64, 64)
    inputs, methods = images(size=size), (Gradcam, CaptumLayerGradCam, CaptumSaliency)
    own, expected = feature_grid(plain, inputs), [method(plain).patch_map(inputs, 2) for method in methods]
    for turn, there in TURNS.items():
        back = (lambda x: x.rot90(-1, (-2, -1))) if turn == "rot90" else there
        model = Outer(plain, there).eval()
        found = feature_grid(model, back(inputs))
        assert found.name == f"vit.{own.name}"
        explainers = [Gradcam(model, layer=found.name), *(method(model) for method in methods[1:])]
        for explainer, wanted in zip(explainers, expected, strict=True):
            assert_near(explainer.patch_map(back(inputs), 2), back(wanted), 1e-4)


def test_a_bright_patch_is_found_where_it_is() -> None:
    # Every feature is brightness and the score its square mean, so that the map is brightness too.
    net = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 4, 4, 2, 2, bias=False) for i in range(4)])
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    bright = torch.zeros(1, 3, 64, 96)
    bright[..., 16:32, 64:80] = 1
    for turn in (lambda x: x, *TURNS.values()):
        model = Outer(net, turn, after=lambda x: x.square().mean((2, 3))).eval()
        found = Gradcam(model).patch_map(bright, 1)[0]
        assert found.nonzero().tolist() == [[1, 4]]


def test_a_crop_of_the_right_is_placed_and_others_are_refused() -> None:
    plain, inputs = vision_model("ResNet"), images(size=(64, 96))
    model = Outer(plain, lambda x: x[..., :64]).eval()
    assert image_layout(model, (64, 96)).extent == (64, 64)
    expected = CaptumLayerGradCam(plain).patch_map(inputs[..., :64], 1)
    assert_near(CaptumLayerGradCam(model).patch_map(inputs, 1), expected, 1e-5)
    refused: dict[str, Callable[[Tensor], Tensor]] = {
        "crops the image itself, to pixels 32 to 96 of 96": lambda x: x[..., 32:],
        "because the model pads, crops or shifts": lambda x: F.pad(x, (0, 32, 0, 0)),
        "of the image's height, because the model pads": lambda x: F.pad(x, (32, 32, 32, 32)),
        "lie in no order of rows and columns": lambda x: x.roll(32, -1),
    }
    for why, before in refused.items():
        with pytest.raises(vi.UnsupportedModelError, match=why):
            Gradcam(Outer(plain, before).eval()).patch_map(inputs, 1)
    # What takes pixels is right on any grid.
    assert CaptumSaliency(Outer(plain, refused["lie in no order of rows and columns"]).eval()).patch_map(
        inputs, 1
    ).shape[1:] == (13, 14)


def test_gradcam_is_its_equation_on_the_last_features() -> None:
    model, inputs = vision_model("ResNet"), images()
    kept: list[Tensor] = []
    handle = model.layer4.register_forward_hook(lambda *args: kept.append(args[2]))
    score = model(inputs)[:, 2].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).detach()
    result = CaptumLayerGradCam(model).patch_map(inputs, target=2)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    earlier = CaptumLayerGradCam(model, layer="layer2").patch_map(inputs, target=2)
    assert earlier.shape[1] > result.shape[1]
    with pytest.raises(ValueError, match="`layer` must name a module of ResNet, got 'layer9'"):
        Gradcam(model, layer="layer9").patch_map(inputs, target=2)


def test_a_layer_is_searched_once_and_then_explained_in_one_pass() -> None:
    model, inputs = vision_model("ResNet"), images()
    explainer = CaptumLayerGradCam(model, layer="layer2")
    passes: list[Tensor] = []
    handle = model.register_forward_hook(lambda *args: passes.append(args[2]))
    first = explainer.patch_map(inputs, target=2)
    passes.clear()
    assert torch.equal(explainer.patch_map(inputs, target=2), first)
    assert len(passes) == 1
    handle.remove()


def test_occlusion_takes_one_cell_away_at_a_time() -> None:
    model, inputs = vision_model("ResNet"), images(1)
    layout = image_layout(model, (64, 64))
    result = CaptumOcclusion(model).patch_map(inputs, target=1)[0]
    height, width = 64 // layout.rows, 64 // layout.cols
    for row in range(layout.rows):
        for col in range(layout.cols):
            changed = inputs.clone()
            changed[:, :, height * row : height * (row + 1), width * col : width * (col + 1)] = 0
            with torch.no_grad():
                drop = (model(inputs) - model(changed))[0, 1]
            torch.testing.assert_close(result[row, col], drop, rtol=1e-3, atol=1e-5)


def test_cells_cover_the_image() -> None:
    for size in ((64, 64), (50, 33), (7, 20), (225, 100)):
        for count in (2, 7, 14):
            layout = cells(size, count, count)
            for pixels, covered, number in zip(size, layout.extent, layout.grid, strict=True):
                side = covered // number
                assert covered == side * number
                assert covered - side < pixels <= covered
                assert number <= count


@pytest.mark.parametrize("kind", WITHOUT)
def test_attention_methods_refuse_and_name_those_that_work(kind: str) -> None:
    model = vision_model(kind)
    with pytest.raises(vi.UnsupportedModelError) as refusal:
        vi.AttentionRollout(model).patch_map(images())
    assert str(refusal.value).endswith(WITHOUT_ATTENTION)


@pytest.mark.parametrize("kind", WITHOUT)
def test_every_method_without_attention_gives_a_map(kind: str) -> None:
    model, inputs = vision_model(kind), images()
    grid = image_layout(model, (64, 64)).grid
    for name, method in all_methods().items():
        if method.needs_attention or method.backwards > 5 or method.forwards > 5:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", vi.ZeroMapWarning)
            target = "pred" if method.class_specific else None
            result, pixels = method(model).patch_map(inputs, target), method(model).attribute(inputs, target)
        assert result.shape == (2, *grid), name
        assert result.isfinite().all()
        assert isinstance(pixels, Tensor)
        assert pixels.shape == inputs.shape


def test_default_methods_are_those_that_work() -> None:
    names = default_methods(vision_model("ResNet"))
    assert {"attn_lrp", "saliency", "gradcam", "layer_grad_cam"} <= set(names)
    assert not any(all_methods()[name].needs_attention for name in names)
    assert "random_map" not in names


def test_a_vision_transformer_keeps_its_patches(family: Family) -> None:
    model = family.build()
    assert image_layout(model, family.size) == vi.token_layout(model, family.size)


def test_the_gradient_of_one_image_is_that_of_two() -> None:
    # torch's batch norm misreads a gradient of one image whose axes stand in another order in memory.
    model, inputs = vision_model("LeViT").double(), images(2, (64, 64)).double()
    both = CaptumSaliency(model).attribute(inputs, target=1)
    alone = torch.cat([CaptumSaliency(model).attribute(image[None], target=1) for image in inputs])
    torch.testing.assert_close(alone, both)


def test_stages_of_randomization_without_attention() -> None:
    model = vision_model("ResNet")
    blocks = attention_blocks(model, images(1))
    found = parameter_stages(model, blocks)
    assert found[0] == list(model.fc.parameters())
    assert sum(map(len, found)) <= len(list(model.parameters()))


def test_a_comparison_of_a_model_without_attention(tmp_path: Any) -> None:
    from PIL import Image

    model = vision_model("ResNet")
    image = Image.effect_noise((80, 80), 50).convert("RGB")
    found = vi.compare([image], model, ["gradcam", "gmar"], ["deletion", "randomization"], out=tmp_path / "out")
    failures = found.failures()
    assert set(failures["method"]) == {"gmar"}
    assert WITHOUT_ATTENTION in failures["reason"].iloc[0]


@pytest.mark.parametrize(
    ("form", "shape"), [("channels first", (2, 5, 3, 4)), ("channels last", (2, 3, 4, 5)), ("tokens", (2, 14, 5))]
)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_what_is_read_is_written_back_beside_the_prefix(
    form: Any, shape: tuple[int, ...], transposed: bool, flips: tuple[bool, bool]
) -> None:
    turned = Orientation(transposed, flips)
    grid, output = FeatureGrid("layer", form, (3, 4), (48, 64), 2, turned), torch.randn(shape)
    assert grid.read(output).shape == (2, 5, *grid.layout.grid) == (2, 5, *((4, 3) if transposed else (3, 4)))
    assert torch.equal(grid.write(grid.read(output), output), output)
    changed = grid.write(grid.read(output) + 1, output)
    assert (changed != output).sum() == 2 * 5 * 12
