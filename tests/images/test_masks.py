"""Object masks select the patches they cover, for any preprocessing."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms

import vit_interactions as vi
from tests.helpers.command_line import run
from tests.helpers.compared import make_model, scores
from tests.helpers.mask_files import png
from vit_interactions.compare import run as running
from vit_interactions.compare.comparison import Comparison
from vit_interactions.figures import PreparedImage, prepare
from vit_interactions.images import read_image
from vit_interactions.images.masks import covered, inside_mask, object_pixels, read_mask
from vit_interactions.images.placement import Placement
from vit_interactions.metrics import METRICS, Case, Metric, Score
from vit_interactions.metrics.average_precision import average_precision
from vit_interactions.metrics.energy_in_box import energy_in_box
from vit_interactions.metrics.iou import intersection_over_union
from vit_interactions.metrics.pointing_game import pointing_game

METHODS = ["raw_attention", "random_map"]

LOCALISATION = ["pointing_game", "energy_in_box", "iou", "average_precision"]

LAYOUT = vi.TokenLayout(prefix=1, rows=4, cols=4, readout="token", extent=(64, 64))


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray[Any, Any]:
    """Draw a disk: (height, width) bool; center (x, y) and radius as fractions of the shorter side."""
    width, height = size
    short = min(size)
    y, x = np.mgrid[:height, :width]
    inside: np.ndarray[Any, Any] = (
        np.hypot(x + 0.5 - centre[0] * width, y + 0.5 - centre[1] * height) < radius * short
    )
    return inside


def prepared_of(size: tuple[int, int], placement: Placement) -> PreparedImage:
    return PreparedImage(Image.new("RGB", size), torch.zeros(3, 64, 64), placement)


@pytest.mark.parametrize(
    "placement",
    [
        Placement(64, 64, 3, 5, 0.5, 0.75),
        Placement(64, 64, -7.3, 2.1, 1.13, 0.87),  # padded on the left
        Placement(64, 64, 10, -20, 0.31, 2.6),  # padded above and below
    ],
)
def test_covered_fraction_is_the_sum_over_pixels(placement: Placement) -> None:
    mask = np.random.default_rng(0).random((90, 70)) < 0.4
    found = covered(prepared_of((70, 90), placement), LAYOUT, mask)
    for row, col in itertools.product(range(4), range(4)):
        left, top, right, bottom = placement.box(16 * col, 16 * row, 16 * col + 16, 16 * row + 16)
        area = 0.0
        for y, x in zip(*np.nonzero(mask), strict=True):
            across = max(0.0, min(right, x + 1) - max(left, x))
            area += across * max(0.0, min(bottom, y + 1) - max(top, y))
        assert float(found[row, col]) == pytest.approx(area / ((right - left) * (bottom - top)), abs=1e-12)


STEPS = {
    "resized and cropped": [transforms.Resize(70), transforms.CenterCrop(64)],
    "resized to a square": [transforms.Resize((64, 64))],
    "padded": [transforms.Resize(40), transforms.CenterCrop(64)],
}


@pytest.mark.parametrize("size", [(200, 200), (300, 180), (120, 400)])
@pytest.mark.parametrize("kind", STEPS)
def test_masks_are_placed_like_the_model_input(kind: str, size: tuple[int, int]) -> None:
    """Compare with the model's preprocessing of an image of the mask, patch by patch."""
    mask = disc(size, (0.4, 0.55), 0.31)
    image = Image.fromarray(mask).convert("RGB")
    prepared = prepare(image, make_model(), transforms.Compose([*STEPS[kind], transforms.ToTensor()]))
    seen = prepared.input[0].reshape(4, 16, 4, 16).mean((1, 3))
    torch.testing.assert_close(covered(prepared, LAYOUT, mask).float(), seen, rtol=0, atol=0.02)
    clear = (seen - 0.5).abs() > 0.02
    assert torch.equal(inside_mask(prepared, LAYOUT, mask)[clear], (seen > 0.5)[clear])
    assert 0 < int(inside_mask(prepared, LAYOUT, mask).sum()) < 16


def test_half_covered_patches_count() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:16, :8] = True  # half of the first patch
    mask[16:32, :8] = True
    mask[31, 7] = False  # one pixel less than half of the one below
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 0] = True
    assert torch.equal(inside_mask(prepared_of((64, 64), Placement(64, 64)), LAYOUT, mask), expected)
    # Three input pixels per pixel: the same result, although no number is exact.
    third = Placement(64, 64, scale_x=1 / 3, scale_y=1 / 3)
    mask = np.zeros((22, 22), bool)
    mask[:, :8] = True  # 8 pixels = one and a half patches
    assert inside_mask(prepared_of((22, 22), third), LAYOUT, mask)[0].tolist() == [True, True, False, False]


def classes(values: list[int]) -> Image.Image:
    """Create a one-row palette image, as in VOC."""
    image = Image.fromarray(np.array([values], np.uint8))
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    return image


def test_pixels_of_every_mode() -> None:
    found = {
        "binary": Image.fromarray(np.array([[False, True]])),
        "0 and 255": Image.fromarray(np.array([[0, 255]], np.uint8)),
        "0 and 1": Image.fromarray(np.array([[0, 1]], np.uint8)),
        "16 bits": Image.fromarray(np.array([[0, 256]], np.uint16)),
        "classes": classes([0, 15]),
        "void": classes([255, 3]),
        "colors": Image.fromarray(np.array([[[0, 0, 0], [0, 3, 0]]], np.uint8)),
        "opaque": Image.fromarray(np.array([[[0, 0, 0, 255], [0, 3, 0, 255]]], np.uint8)),
        "transparent": Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 1]]], np.uint8)),
        "gray and alpha": Image.fromarray(np.array([[[0, 255], [255, 255]]], np.uint8), "LA"),
    }
    for name, image in found.items():
        assert object_pixels(image).tolist() == [[False, True]], name


def test_masks_round_trip_through_files(tmp_path: Path) -> None:
    mask = disc((30, 20), (0.5, 0.5), 0.3)
    for name, values in {
        "gray": mask.astype(np.uint8) * 255,
        "one bit": mask,
        "16 bits": mask.astype(np.uint16) * 4000,
        "colors": np.stack([mask * 0, mask * 200, mask * 0], -1).astype(np.uint8),
    }.items():
        np.testing.assert_array_equal(read_mask(png(tmp_path / f"{name}.png", values), (30, 20)), mask)
    # Upright by EXIF, like the image.
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = png(tmp_path / "lying.png", np.rot90(mask), exif=exif)
    np.testing.assert_array_equal(read_mask(lying, (30, 20)), mask)


def test_unusable_masks_are_reported(tmp_path: Path) -> None:
    def refused(match: str, name: str) -> None:
        with pytest.raises(ValueError, match=match):
            read_mask(tmp_path / name, (30, 20))

    refused(r"the mask .*gone\.png does not exist", "gone.png")
    png(tmp_path / "turned.png", np.ones((30, 20), np.uint8))
    refused("must have the image's size 30 x 20, got 20 x 30", "turned.png")
    png(tmp_path / "empty.png", np.zeros((20, 30), np.uint8))
    refused("contains no object", "empty.png")
    png(tmp_path / "void.png", classes([0, 255]))
    with pytest.raises(ValueError, match="in a palette image: 0 or 255"):
        read_mask(tmp_path / "void.png", (2, 1))
    (tmp_path / "text.png").write_text("no image")
    refused(r"the mask cannot be read: .*text\.png` .* cannot identify its format", "text.png")
    whole = png(tmp_path / "noise.png", np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:200])
    refused(r"the mask cannot be read: .*cut\.png` .* truncated", "cut.png")
    Image.new("L", (30, 20), 200).save(tmp_path / "photo.png", "JPEG")  # JPEG does not preserve 0
    refused("is JPEG, which is not a supported image format. Convert it to PNG.", "photo.png")
    (tmp_path / "folder.png").mkdir()
    refused("must be a file, got a folder at", "folder.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write four images and their masks: wide, tall, square, and one rotated by EXIF."""
    random = np.random.default_rng(0)
    for name, size in {"wide": (120, 70), "tall": (70, 150), "square": (64, 64), "turned": (100, 60)}.items():
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        exif = Image.Exif()
        if name == "turned":
            pixels = np.rot90(pixels)
            exif[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png", exif=exif)
        png(tmp_path / "masks" / f"{name}.png", disc(size, (0.45, 0.6), 0.3).astype(np.uint8) * 9)
    return tmp_path


def compare(root: Path, model: nn.Module | None = None, **options: Any) -> Comparison:
    given = {"methods": METHODS, "metrics": [*LOCALISATION, "deletion"], "masks": root / "masks", **options}
    return vi.compare([root / "images"], model or make_model(), **given)


def test_localization_metrics_use_covered_patches(root: Path) -> None:
    model = make_model()
    comparison = compare(root, model)
    assert comparison.failures().empty
    values = comparison.table().set_index(["image", "method", "metric"])["value"]
    for name in ("wide", "tall", "square", "turned"):
        image = read_image(root / "images" / f"{name}.png")
        prepared = prepare(image, model)
        mask = np.asarray(Image.open(root / "masks" / f"{name}.png")) > 0
        assert mask.shape == image.size[::-1]
        patches = torch.zeros(4, 4, dtype=torch.bool)
        for row, col in itertools.product(range(4), range(4)):
            left, top, right, bottom = prepared.patch_box(row, col, LAYOUT)
            # Sample 1,600 points of the patch and look up their pixels.
            points = [
                (int(top + (bottom - top) * (y + 0.5) / 40), int(left + (right - left) * (x + 0.5) / 40))
                for y, x in itertools.product(range(40), range(40))
            ]
            patches[row, col] = sum(bool(mask[point]) for point in points) >= 800
        assert 0 < int(patches.sum()) < 16
        for method, found in comparison.maps("VisionTransformer", name).items():
            patch_map = torch.from_numpy(found)
            expected = {
                "pointing_game": pointing_game(patch_map, patches),
                "energy_in_box": energy_in_box(patch_map, patches),
                "iou": intersection_over_union(patch_map, patches),
                "average_precision": average_precision(patch_map, patches),
            }
            for metric, value in expected.items():
                assert values[name, method, metric] == pytest.approx(value), (name, method, metric)
    [wide] = [each for each in comparison.images if each.key == "wide"]
    assert wide.mask == root / "masks" / "wide.png"
    assert wide.boxes == ()


def test_unusable_masks_fail_localization_metrics_only(root: Path) -> None:
    whole = compare(root)
    (root / "masks" / "wide.png").unlink()
    png(root / "masks" / "tall.png", np.ones((70, 150), np.uint8))
    (root / "masks" / "square.png").write_bytes(b"no image")
    comparison = compare(root)
    failures = comparison.failures()
    errors = failures.groupby("image")["error"].unique().map(list).to_dict()
    damaged = ["UnusableMaskError"]
    assert errors == {"wide": ["ValueError"], "tall": damaged, "square": damaged}
    for name, reason in {
        "wide": f"the mask {root / 'masks' / 'wide.png'} does not exist.",
        "tall": f"the mask {root / 'masks' / 'tall.png'} must have the image's size 70 x 150, "
        "got 150 x 70 (width x height).",
        "square": f"the mask cannot be read: `{root / 'masks' / 'square.png'}` is not an image that can be read: "
        "cannot identify its format",
    }.items():
        rows = failures[failures["image"] == name]
        assert set(rows["reason"]) == {reason}
        lost = list(itertools.product(METHODS, LOCALISATION))
        assert list(zip(rows["method"], rows["metric"], strict=True)) == lost
    assert len(failures) == 3 * len(METHODS) * len(LOCALISATION)
    assert not any(each.error for each in comparison.images)

    def rest(comparison: Comparison) -> pd.DataFrame:
        table = scores(comparison)
        return table[(table["metric"] == "deletion") | (table["image"] == "turned")].reset_index(drop=True)

    pd.testing.assert_frame_equal(rest(comparison), rest(whole))


def test_resume_measures_images_with_a_changed_mask_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    original = running.classify

    def counted(*arguments: Any) -> Any:
        measured.append(arguments[1].image.size)
        return original(*arguments)

    monkeypatch.setattr(running, "classify", counted)

    def made() -> list[tuple[int, int]]:
        measured.clear()
        compare(root, out=root / "out", resume=True)
        return list(measured)

    (root / "masks" / "wide.png").unlink()
    assert len(made()) == 4
    assert made() == []
    png(root / "masks" / "square.png", np.eye(64, dtype=np.uint8))
    assert made() == [(64, 64)]
    png(root / "masks" / "wide.png", np.ones((70, 120), np.uint8))  # was missing before
    assert made() == [(120, 70)]
    (root / "masks" / "wide.png").unlink()
    assert made() == [(120, 70)]
    comparison = compare(root, out=root / "out", resume=True)
    assert set(comparison.failures()["image"]) == {"wide", "square"}  # a line covers half of no patch


def test_masks_apply_to_every_class(root: Path) -> None:
    seen: list[Tensor] = []

    def look(case: Case, patch_map: Tensor) -> Score:
        assert case.inside is not None
        seen.append(case.inside)
        return Score(0.5)

    metric = Metric("look", "none", (0, 1), "these tests", {}, frozenset({"object"}), "nothing", look)
    for target in (0, 3):
        compare(root, target=target, methods=["raw_attention"], metrics=[metric])
    assert len(seen) == 8
    assert all(torch.equal(one, other) for one, other in zip(seen[:4], seen[4:], strict=True))


def test_masks_with_a_model_without_classes(root: Path) -> None:
    features = timm.create_model("test_vit", num_classes=0, img_size=64)
    comparison = compare(root, features, methods=["raw_attention"], metrics=["iou"])
    assert comparison.failures().empty
    assert (comparison.table()["metric"] == "iou").sum() == 4


def test_metrics_without_objects_do_not_load_masks(root: Path) -> None:
    def look(case: Case, patch_map: Tensor) -> Score:
        return Score(float(case.inside is None))

    metric = Metric("look", "none", (0, 1), "these tests", {}, frozenset(), "nothing", look)
    (root / "masks" / "wide.png").unlink()
    comparison = compare(root, metrics=[metric])
    assert comparison.failures().empty


def test_pil_image_uses_the_mask_of_its_file(root: Path) -> None:
    image = Image.open(root / "images" / "wide.png")
    comparison = vi.compare([image], make_model(), ["random_map"], ["iou"], masks=root / "masks")
    assert comparison.failures().empty
    expected = compare(root, methods=["random_map"], metrics=["iou"]).table()
    expected = expected[(expected["image"] == "wide") & (expected["metric"] == "iou")]
    table = comparison.table()
    assert table[table["metric"] == "iou"]["value"].tolist() == pytest.approx(expected["value"].tolist())


def test_wrong_arguments_raise(root: Path, tmp_path: Path) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            compare(root, **options)

    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,left,top,right,bottom,index\nwide.png,0,0,9,9,1\n")
    refused("`boxes` and `masks` must not both be given", boxes=boxes)
    refused("`boxes` must be given for `target` 'boxes', .*; masks have no class", target="boxes")
    refused("must be a folder of PNG files", masks=root / "gone")
    refused("`boxes` or `masks` must be given for 'pointing_game', got neither", masks=None)
    refused("must not be the folder of the images", masks=root / "images")


def test_default_metrics_with_masks_include_localization(root: Path) -> None:
    found = compare(root, metrics=None, methods=["random_map"]).metrics
    assert set(LOCALISATION) < set(found)
    assert not set(LOCALISATION) & set(compare(root, metrics=None, methods=["random_map"], masks=None).metrics)
    assert {name for name, metric in METRICS.items() if "object" in metric.needs} - {"grid_pointing_game"} == set(
        LOCALISATION
    )


def test_the_command_takes_masks(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = root / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), weights)
    model = ("--model", "test_vit", "--checkpoint", weights)
    common = ("compare", root / "images", *model, "--method", "random_map")
    assert run(*common, "--metric", "iou", "--masks", root / "masks", "--out", root / "out") == 0
    assert "iou" in capsys.readouterr().out
    comparison = Comparison.open(root / "out")
    assert comparison.failures().empty
    assert comparison.metrics == ["iou"]
    assert run(*common, "--masks", root / "gone", "--out", root / "other") == 2
    assert "must be a folder of PNG files" in capsys.readouterr().err
