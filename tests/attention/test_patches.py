"""Tests of finding the pixels of each token by gradients, for stems with known results."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_interactions.attention.patches import NONE, SEVERAL, find_patches, pixel_tokens, token_centers

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def embed(image: Tensor, patch: int | tuple[int, int] = 4, *, padding: int = 0, seed: int = 0) -> Tensor:
    """Cut an image into patches by a convolution with random weights: (1, patches, 8)."""
    size = (patch, patch) if isinstance(patch, int) else patch
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, image.shape[1], *size, generator=generator).to(image.dtype)
    return F.layer_norm(F.conv2d(image, weight, stride=size, padding=padding).flatten(2).transpose(1, 2), (8,))


def as_query(tokens: Tensor) -> Tensor:
    """Split channels into two heads: (1, 2, tokens, 4)."""
    return tokens.unflatten(-1, (2, 4)).transpose(1, 2)


def random_image(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    return image.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", TYPES)
def test_every_pixel_feeds_the_token_of_its_patch(dtype):
    image = random_image(12, 20, dtype)
    found = pixel_tokens(as_query(embed(image)), image)
    rows, cols = torch.arange(12)[:, None] // 4, torch.arange(20) // 4
    assert torch.equal(found, rows * 5 + cols)


@pytest.mark.parametrize("dtype", TYPES)
def test_many_tokens_are_told_apart(dtype):
    image = random_image(64, 160, dtype)
    found = pixel_tokens(as_query(embed(image, 2)), image)
    assert torch.equal(found, torch.arange(64)[:, None] // 2 * 80 + torch.arange(160) // 2)


def test_a_grid_with_prefix_tokens_and_a_rest_that_no_patch_covers():
    image = random_image(14, 23)
    tokens = torch.cat((torch.randn(1, 3, 8), embed(image)), 1)
    grid = find_patches(as_query(tokens), image)
    assert (grid.prefix, grid.rows, grid.cols) == ((0, 1, 2), 3, 5)
    assert grid.order == tuple(range(3, 18))
    assert (grid.top, grid.left, grid.pitch, grid.slack) == (0.0, 0.0, (4.0, 4.0), (0.0, 0.0))
    assert grid.extent((14, 23)) == (12, 20)


def test_patches_that_are_no_squares():
    image = random_image(12, 20)
    grid = find_patches(as_query(embed(image, (6, 4))), image)
    assert (grid.rows, grid.cols, grid.pitch, grid.extent((12, 20))) == (2, 5, (6.0, 4.0), (12, 20))


def test_padding_below_and_to_the_right_reaches_beyond_the_image():
    image = random_image(14, 18)
    grid = find_patches(as_query(embed(F.pad(image, (0, 2, 0, 2)))), image)
    assert (grid.rows, grid.cols, grid.pitch, grid.extent((14, 18))) == (4, 5, (4.0, 4.0), (16, 20))


def test_flipped_images_have_their_tokens_in_another_order():
    image = random_image(8, 12)
    grid = find_patches(as_query(embed(image.flip(-1))), image)
    assert grid.order == (2, 1, 0, 5, 4, 3)
    assert grid.extent((8, 12)) == (8, 12)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_in_any_order_are_unscrambled(seed):
    image = random_image(16, 12)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(seed))
    tokens = torch.cat((torch.randn(1, 1, 8), embed(image)), 1)[:, order]
    grid = find_patches(as_query(tokens), image)
    where = order.argsort().tolist()
    assert grid.prefix == (where[0],)
    assert grid.order == tuple(where[1:])


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (lambda image: image[..., 4:, :], "4 to 16"),
        (lambda image: F.pad(image, (2, 2, 2, 2)), "-2 to 18"),
        (lambda image: image[..., 4:12, 4:12], "4 to 12"),
    ],
)
def test_crops_and_padding_inside_the_model_are_refused(change, begins):
    image = random_image(16, 16)
    grid = find_patches(as_query(embed(change(image))), image)
    with pytest.raises(
        ValueError, match=f"pixels {begins} of the image's height of 16.*Do that to the image first"
    ):
        grid.extent((16, 16))


@pytest.mark.parametrize("size", [48, 80])
def test_an_image_resized_inside_the_model_is_covered_as_a_whole(size):
    image = random_image(64, 64)
    small = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    grid = find_patches(as_query(embed(small, 8)), image)
    assert (grid.rows, grid.cols, grid.extent((64, 64))) == (size // 8, size // 8, (64, 64))
    assert grid.order == tuple(range((size // 8) ** 2))


def test_an_image_resized_and_cropped_inside_the_model_is_refused():
    image = random_image(64, 64)
    small = F.interpolate(image, (48, 48), mode="nearest")[..., :40, :40]
    grid = find_patches(as_query(embed(small, 8)), image)
    with pytest.raises(
        ValueError, match=r"pixels 0 to 53\.\d* of the image's height of 64.*crops, pads or resizes"
    ):
        grid.extent((64, 64))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("side", [64, 160])
def test_an_image_enlarged_by_a_fraction_and_cropped_is_refused(side, mode):
    # Patches of 8 px are 6.4 px of the image: 6 px would put the last of 20 columns a whole patch off.
    image = random_image(side, side)
    large = F.interpolate(image, (side * 5 // 4,) * 2, mode=mode)[..., :side, :side]
    grid = find_patches(as_query(embed(large, 8)), image)
    assert grid.pitch == pytest.approx((6.4, 6.4), rel=0.01)
    with pytest.raises(ValueError, match=f"of the image's (height|width) of {side}.*crops, pads or resizes"):
        grid.extent((side, side))


def test_pixels_that_feed_several_tokens_or_none():
    image = random_image(4, 9)
    tokens = torch.cat((image[..., :4].sum((2, 3)), image[..., 3:8].sum((2, 3))), 0)[None]
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    found = pixel_tokens(as_query(tokens @ weights), image)
    expected = torch.tensor([0, 0, 0, SEVERAL, 1, 1, 1, 1, NONE]).expand(4, 9)
    assert torch.equal(found, expected)


def stem(depth: int, channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [channels, *[16] * depth]
    layers = [
        layer
        for before, after in itertools.pairwise(widths)
        for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU())
    ]
    return nn.Sequential(*layers, nn.Conv2d(16, 8, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_overlapping_patches_are_placed_by_their_centers(dtype):
    image = random_image(48, 64, dtype)
    tokens = stem(3).to(dtype)(image).flatten(2).transpose(1, 2)
    tokens = torch.cat((torch.zeros(1, 1, 8, dtype=dtype), tokens), 1)
    grid = find_patches(as_query(tokens), image)
    assert (grid.prefix, grid.rows, grid.cols) == ((0,), 6, 8)
    assert grid.order == tuple(range(1, 49))
    assert grid.extent((48, 64)) == (48, 64)
    # Each of the three convolutions is centered on the first of two pixels: (1 + 2 + 4) / 2 before the middle of 8.
    assert grid.top == pytest.approx(-3.5, abs=1)
    assert grid.pitch == pytest.approx((8, 8), abs=0.3)


def test_blank_tokens_have_their_places_among_the_others():
    image = random_image(16, 20)
    blank = torch.ones(20, 1).index_fill_(0, torch.tensor([6, 13]), 0.0)
    grid = find_patches(as_query(torch.cat((torch.zeros(1, 1, 8), embed(image) * blank), 1)), image)
    assert (grid.prefix, grid.order, grid.rows, grid.cols) == ((0,), tuple(range(1, 21)), 4, 5)


@pytest.mark.parametrize("widths", [(8, 4, 4), (4, 4, 8), (4, 8), (4, 4, 2, 6)])
def test_patches_of_several_sizes_are_refused(widths):
    image = random_image(4, sum(widths))
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.stack([part.sum((2, 3)) @ weights for part in image.split(widths, -1)], 1)
    with pytest.raises(ValueError, match="the patches are not equally large"):
        find_patches(as_query(tokens), image)


def test_patches_with_gaps_between_them_have_no_edges():
    image = random_image(16, 16)
    weight = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    tokens = F.conv2d(image[..., 1:, 1:], weight, stride=4).flatten(2).transpose(1, 2)
    grid = find_patches(as_query(tokens), image)
    assert (grid.rows, grid.cols, grid.pitch, grid.top) == (4, 4, (4.0, 4.0), 1.0)
    assert grid.extent((16, 16)) == (16, 16)  # touching patches that begin at 1 would be a crop


def test_overlapping_patches_in_another_order():
    image = random_image(48, 64)
    tokens = stem(3)(image.flip(-2)).flatten(2).transpose(1, 2)
    grid = find_patches(as_query(tokens), image)
    assert grid.order == tuple(torch.arange(48).reshape(6, 8).flip(0).flatten().tolist())


def test_centers_of_mass_equal_those_of_the_jacobian():
    image = random_image(12, 12, torch.float64)
    query = as_query(stem(2).double()(image).flatten(2).transpose(1, 2))
    centers = token_centers(query, image)
    for token in range(query.shape[-2]):
        energy = torch.zeros(12, 12, dtype=torch.float64)
        for value in query[0, :, token].flatten():
            energy += torch.autograd.grad(value, image, retain_graph=True)[0][0].square().sum(0)
        place = torch.arange(12) + 0.5
        exact = torch.stack(((energy.sum(1) * place).sum(), (energy.sum(0) * place).sum())) / energy.sum()
        assert centers[token] == pytest.approx(exact, abs=1.0)


def test_a_single_row_and_a_single_patch():
    image = random_image(4, 12)
    grid = find_patches(as_query(embed(image)), image)
    assert (grid.rows, grid.cols, grid.extent((4, 12))) == (1, 3, (4, 12))
    single = random_image(4, 4)
    assert find_patches(as_query(embed(single)), single).extent((4, 4)) == (4, 4)


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (lambda image: image.flatten(2).transpose(1, 2).unflatten(1, (-1, 2)).mean(1), "rectangle"),
        (lambda image: torch.zeros(1, 4, 3) + image.detach().mean(), "no gradient|does not require|no pixel"),
        (lambda image: F.pixel_unshuffle(image, 2).flatten(2)[:, :4], "rectangle"),
    ],
)
def test_what_is_no_grid_of_patches_is_refused(tokens, why):
    image = random_image(4, 8)
    weights = torch.randn(tokens(image).shape[-1], 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises((ValueError, RuntimeError), match=why):
        find_patches(as_query(tokens(image) @ weights), image)
