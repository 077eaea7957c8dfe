"""Tests of symmetries and of maps with known peaks: order of heads, places of patches, and the one relevant patch.

Heads have no order, and patches have no place except through the position embedding. If a model attends to one patch
alone and reads its output from there, every map must peak there. Exceptions are listed with their reason, and tests
check that they are exceptions.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import permutations
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.explaining import CHOOSY, OF_TOKENS, assert_near, differs, make
from tests.helpers.families import FAMILIES, Family
from tests.helpers.planted import PATCH, SHARE, SHARPNESS, looking_model, painted, planted_image, planted_model
from tests.helpers.rearranged import attentions, moved_images, moved_patches, placed, reordered_heads
from tests.helpers.torchvision_models import vit as torchvision_vit
from tests.helpers.transformers_models import IMAGE, seeded
from tests.helpers.twins import Outer

# A model of random weights may speak against a class at every patch, and uniform attention does not vary.
pytestmark = pytest.mark.filterwarnings("ignore::vit_interactions.ZeroMapWarning")

METHODS: dict[str, Callable[[nn.Module], vi.Explainer]] = {
    name: partial(make, method) for name, method in vi.EXPLAINERS.items()
}
VARIANTS: dict[str, Callable[[nn.Module], vi.Explainer]] = {
    "gmar, weights of the last layer": partial(vi.GMAR, scope="last_layer"),
    "beyond_intuition by token": partial(vi.BeyondIntuition, variant="token", start=1, steps=3),
    "legrad, the model's pooling": partial(vi.LeGrad, pool="model", layers="all"),
    "attn_lrp through attention": partial(vi.AttnLRP, variant="attn"),
}
every_method = pytest.mark.parametrize("method", [*METHODS, *VARIANTS])

OF_FIELDS = ("responsive_field_size", "responsive_field_tendency")
OF_U = ("interaction_uncertainty", "indiscriminative_patches", *OF_FIELDS)

# U is made of the variance of head j over the layers, and the weights of the last layer's heads go to the heads of the
# same number in all layers: these know heads by number, so heads may change places in all layers alike only.
HEADS_BY_NUMBER = (*OF_U, "gmar, weights of the last layer")

# A window is the rectangle around patches: when they are moved apart it is another rectangle, with other patches in it.
# The random baseline is seeded by the image's values, and so differs for another image.
BOUND_TO_PLACES = (*OF_FIELDS, "random_map")


def hf_vit(num_heads: int = 2) -> nn.Module:
    return seeded(
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**{**IMAGE, "num_attention_heads": num_heads}))
    )


MODELS = {
    **FAMILIES,
    "transformers": Family("transformers", hf_vit, (64, 64), 1, (4, 4), "token"),
    "torchvision": Family("torchvision", torchvision_vit, (64, 64), 1, (4, 4), "token"),
}

# Each keeps the parameters of its heads in another way.
with_heads = pytest.mark.parametrize(
    "row", ["vit", "eva02", "beit", "relpos", "test_vit3", "transformers", "torchvision"]
)

# Those that tell places by a table. Others compute them from coordinates (DINOv3, mixed RoPE), resample the table to
# the image (NaFlex, dynamic sizes), see neighbors before the first block (hybrids), or have patches cut off (padding).
with_places = pytest.mark.parametrize(
    "row",
    [
        *("non_square", "distilled", "dinov2_reg4", "reg4_gap", "siglip", "eva02", "beit", "relpos"),
        *("transformers", "torchvision"),
    ],
)


@cache
def model_of(row: str) -> nn.Module:
    """Build a row's model in float64, with position embeddings that matter and enough heads to reorder."""
    options = {} if row == "test_vit3" else {"num_heads": 4}  # that one has three
    return placed(MODELS[row].build(**options)).double()


def explain(method: str, model: nn.Module, inputs: Tensor) -> Tensor:
    """Explain a batch of two for its classes 1 and 3; skip models that a choosy method does not support."""
    explainer = {**METHODS, **VARIANTS}[method](model)
    try:
        return explainer.patch_map(inputs, [1, 3] if explainer.class_specific else None)
    except vi.UnsupportedModelError as error:
        # By token, Beyond Intuition needs to know the parts of a block.
        if type(explainer) not in CHOOSY and getattr(explainer, "variant", None) != "token":
            raise
        pytest.skip(str(error))


def tolerance(method: str) -> float:
    """Return the largest difference of maps in float64, as a share of their largest value.

    Terms in another order move a sum by about 1e-16 of it. Measured here: 7e-13 for transformer attribution, which
    divides by sums near 0, 5e-15 at most for all others; what is really different differs by more than 1e-2. Attention
    flow counts capacities in millionths: one that is rounded the other way moves a share of the flow of about 1/20 by
    some 1e-5 of it.
    """
    return 1e-4 if method == "attention_flow" else 1e-9


# --- the order of heads ---


def shuffled(model: nn.Module, *, alike: bool) -> nn.Module:
    """Put every head of every layer elsewhere, in all layers alike or in each otherwise than in the one before."""
    orders = []  # of four heads no rotation: (1, 3, 0, 2), (2, 3, 1, 0), (3, 2, 1, 0)
    for layer, heads in enumerate(attentions(model).values()):
        elsewhere = [order for order in permutations(range(heads)) if all(a != b for a, b in enumerate(order))]
        orders.append(torch.tensor(elsewhere[(2 if alike else 2 + 3 * layer) % len(elsewhere)]))
    return reordered_heads(model, orders)


@with_heads
def test_shuffled_heads_are_other_heads_of_the_same_model(row: str) -> None:
    model, inputs = model_of(row), MODELS[row].images().double()
    for alike in (True, False):
        other = shuffled(model, alike=alike)
        with torch.no_grad(), vi.record_attention(model) as record:
            expected = model(inputs)
        with torch.no_grad(), vi.record_attention(other) as shuffled_record:
            output = other(inputs)
        assert_near(getattr(output, "logits", output), getattr(expected, "logits", expected), 1e-12)
        for layer in range(len(record.calls)):
            before, after = record.attention(layer), shuffled_record.attention(layer)
            assert differs(after, before)
            assert_near(after.sort(1).values, before.sort(1).values, 1e-12)


@every_method
@with_heads
def test_the_order_of_heads_does_not_matter(method: str, row: str) -> None:
    inputs = MODELS[row].images().double()
    expected = explain(method, model_of(row), inputs)
    other = shuffled(model_of(row), alike=method in HEADS_BY_NUMBER)
    assert_near(explain(method, other, inputs), expected, tolerance(method))


@pytest.mark.parametrize("method", HEADS_BY_NUMBER)
@with_heads
def test_heads_known_by_number_are_not_shuffled_in_each_layer_apart(method: str, row: str) -> None:
    inputs = MODELS[row].images().double()
    other = shuffled(model_of(row), alike=False)
    assert differs(explain(method, other, inputs), explain(method, model_of(row), inputs))


# --- the places of patches ---

Move = Callable[[int, int], Tensor]


def shuffle(rows: int, cols: int) -> Tensor:
    return torch.randperm(rows * cols, generator=torch.Generator().manual_seed(0)).view(rows, cols)


def numbers(rows: int, cols: int) -> Tensor:
    return torch.arange(rows * cols).view(rows, cols)


# Which patch comes to each place of the new grid, and what becomes of an arrow (x, y) on the way.
TURNS: dict[str, tuple[Move, Callable[[Tensor], Tensor]]] = {
    "left to right": (lambda *grid: numbers(*grid).flip(1), lambda arrow: arrow * torch.tensor([-1.0, 1.0])),
    "upside down": (lambda *grid: numbers(*grid).flip(0), lambda arrow: arrow * torch.tensor([1.0, -1.0])),
    "transposed": (lambda *grid: numbers(*grid).T, lambda arrow: arrow.flip(-1)),
}


def moved(row: str, move: Move) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a row's model and images with moved patches, and the new order as a grid."""
    family = MODELS[row]
    order = move(*family.grid)
    inputs = moved_images(family.images().double(), family.grid, order.flatten(), tuple(order.shape))
    model = moved_patches(model_of(row), order.flatten())
    if tuple(order.shape) != family.grid:
        # Sets the grid alone: the table, already in order, keeps its length and needs no resampling.
        model.patch_embed.set_input_size(tuple(inputs.shape[-2:]))
    return model, inputs, order


def at(order: Tensor, patch_map: Tensor) -> Tensor:
    """Reorder the values of a map (batch, rows, cols, ...)."""
    return patch_map.flatten(1, 2)[:, order]


@with_places
def test_moved_patches_and_places_make_the_same_answer(row: str) -> None:
    with torch.no_grad():
        expected = model_of(row)(MODELS[row].images().double())
        for move in (shuffle, *(move for move, _ in TURNS.values())):
            model, inputs, order = moved(row, move)
            answer = model(inputs)
            assert_near(getattr(answer, "logits", answer), getattr(expected, "logits", expected), 1e-12)
            if tuple(order.shape) == MODELS[row].grid:
                left = model_of(row)(inputs)
                assert differs(getattr(left, "logits", left), getattr(expected, "logits", expected))


@pytest.mark.parametrize("method", [name for name in (*METHODS, *VARIANTS) if name not in BOUND_TO_PLACES])
@with_places
def test_moved_patches_move_in_the_map(method: str, row: str) -> None:
    model, inputs, order = moved(row, shuffle)
    before = explain(method, model_of(row), MODELS[row].images().double())
    expected = at(order, before)
    assert_near(explain(method, model, inputs), expected, tolerance(method))
    assert differs(expected, before)


@with_places
def test_u_moves_whole_but_windows_are_rectangles_of_the_grid(row: str) -> None:
    model, inputs, order = moved(row, shuffle)
    images, flat = MODELS[row].images().double(), order.flatten()
    expected = vi.InteractionUncertainty(model_of(row)).uncertainty(images)[:, flat][:, :, flat]
    assert_near(vi.InteractionUncertainty(model).uncertainty(inputs), expected, 1e-9)
    before, after = (
        vi.ResponsiveFieldSize(model_of(row)).field(images),
        vi.ResponsiveFieldSize(model).field(inputs),
    )
    assert torch.equal(after.candidates, before.candidates[:, flat][:, :, flat])
    assert torch.equal(after.dropped, before.dropped[:, flat])
    assert not torch.equal(after.size, before.size[:, flat])


@pytest.mark.parametrize("method", BOUND_TO_PLACES)
@with_places
def test_what_is_bound_to_places_does_not_move_with_the_patches(method: str, row: str) -> None:
    model, inputs, order = moved(row, shuffle)
    expected = at(order, explain(method, model_of(row), MODELS[row].images().double()))
    assert differs(explain(method, model, inputs), expected)


@pytest.mark.parametrize("turn", TURNS)
@with_places
def test_fields_turn_with_the_image(turn: str, row: str) -> None:
    move, turned = TURNS[turn]
    model, inputs, order = moved(row, move)
    images = MODELS[row].images().double()
    before, after = vi.ResponsiveFieldTendency(model_of(row)), vi.ResponsiveFieldTendency(model)
    arrows = before.tendency(images)
    assert torch.equal(after.tendency(inputs), turned(at(order, arrows)))
    assert torch.equal(after.field(inputs).size, before.field(images).size[:, order.flatten()])
    # Where arrows meet they meet in the mirror too; the sum of the two slopes is taken in another order.
    torch.testing.assert_close(after.patch_map(inputs), at(order, before.patch_map(images)), rtol=0, atol=1e-6)


# --- the one patch that matters ---

# What follows the attention alone, or weighs whole heads of it: where the model looks, not what it takes from there.
OF_ATTENTION = (
    *OF_U,
    "raw_attention",
    "attention_rollout",
    "attention_flow",
    "gmar",
    "gmar, weights of the last layer",
    "attention_grad_cam",
)
# The baseline ignores the model, and similar features say nothing about what the score is read from.
FOUND = [method for method in (*METHODS, *VARIANTS) if method not in ("random_map", "patch_similarity")]

# The grid, the patch that matters, one that does not, and the model's tokens and readout.
LAYOUTS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int], dict[str, Any]]] = {
    "class token": ((4, 4), (1, 2), (3, 1), {}),
    "non-square": ((3, 5), (0, 4), (2, 1), {}),
    "registers": ((5, 3), (4, 1), (1, 0), {"reg_tokens": 4}),
    "distillation token": ((4, 4), (2, 2), (0, 3), {"name": "deit_tiny_distilled_patch16_224"}),
    "mean of patches": ((3, 6), (1, 3), (0, 0), {"class_token": False, "reg_tokens": 4, "global_pool": "avg"}),
    "pooling head": ((4, 5), (1, 2), (3, 1), {"reg_tokens": 2, "global_pool": "map"}),
}
RED, GREEN, BLUE = range(3)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_finder = pytest.mark.parametrize("method", FOUND)


def green_images(grid: tuple[int, int]) -> Tensor:
    """Return an image in shades of green, a channel that no part of the model reads."""
    green = torch.rand(1, 16 * grid[0], 16 * grid[1], generator=torch.Generator().manual_seed(0))
    return torch.stack((torch.zeros_like(green), green, torch.zeros_like(green)), 1)


def relevance(method: str, model: nn.Module, inputs: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute a method's map of one image (rows, cols), with the sign for which higher is more relevant."""
    explainer = {**METHODS, **VARIANTS}[method](model)
    if method in OF_FIELDS:
        # As many pairs as there are: each other patch with the one that is looked at.
        patches = math.prod(grid)
        explainer = vi.EXPLAINERS[method](model, alpha=(patches - 1) / patches**2)  # type: ignore[call-arg]
    patch_map = explainer.patch_map(inputs, 1 if explainer.class_specific else None)[0]
    return patch_map if explainer.more_is_relevant else -patch_map


def assert_peak(patch_map: Tensor, patch: tuple[int, int]) -> None:
    """Check that the highest value is at the patch, and well above the second highest."""
    highest, second = patch_map.flatten().topk(2).values
    assert patch_map[patch] == highest
    assert highest - second > 0.01 * highest.abs()


@every_layout
def test_one_patch_alone_matters_to_the_score(layout: str) -> None:
    grid, patch, decoy, options = LAYOUTS[layout]
    model = looking_model(grid, RED, silent=patch, **options)
    inputs = painted(green_images(grid), patch, RED)
    with torch.no_grad():
        score = model(inputs)[0, 1]
        assert score > 1
        for row in range(grid[0]):
            for col in range(grid[1]):
                without = model(painted(inputs, (row, col), RED, 0.0))[0, 1]
                assert without == (0 if (row, col) == patch else score)
        # What is looked for and red nowhere takes attention away and gives nothing.
        astray = looking_model(grid, BLUE, silent=decoy, **options)
        assert 0 < astray(painted(inputs, decoy, BLUE))[0, 1] < astray(inputs)[0, 1] < score


@every_finder
@every_layout
def test_the_one_patch_that_matters_is_found(method: str, layout: str) -> None:
    grid, patch, _, options = LAYOUTS[layout]
    model, inputs = looking_model(grid, RED, silent=patch, **options), painted(green_images(grid), patch, RED)
    if method.startswith("legrad") and layout == "pooling head":
        pytest.skip("follows the pooling head alone; see the test of what it sees there")
    patch_map = relevance(method, model, inputs, grid)
    assert_peak(patch_map, patch)
    # Without any other token, more attention is left for the red patch.
    if method not in (*OF_ATTENTION, *OF_TOKENS) and not keeps_the_identity(method, layout):
        assert patch_map.count_nonzero() == 1


def keeps_the_identity(method: str, layout: str) -> bool:
    """Check whether rollout gives each patch a share, because the readout reads patches directly."""
    return method == "gradient_rollout" and layout in ("mean of patches", "pooling head")


@every_layout
def test_all_of_the_score_is_given_to_the_patch_where_maps_sum_to_it(layout: str) -> None:
    grid, patch, _, options = LAYOUTS[layout]
    model, inputs = looking_model(grid, RED, silent=patch, **options), painted(green_images(grid), patch, RED)
    score = model(inputs)[0, 1].detach()
    torch.testing.assert_close(relevance("attn_lrp", model, inputs, grid)[patch], score)
    # What the pooling head takes from the patch itself did not come through a block.
    itself = 1 / math.prod(grid) if layout == "pooling head" else 0.0
    evidence = relevance("dynamic_accumulated_attention", model, inputs, grid)[patch]
    torch.testing.assert_close(evidence, score - itself)


@every_finder
@every_layout
def test_attention_that_goes_astray_misleads_what_follows_attention_alone(method: str, layout: str) -> None:
    if method == "tis":
        pytest.skip("this model has 12 channels, too few for masks that single out a patch")
    grid, patch, decoy, options = LAYOUTS[layout]
    model = looking_model(grid, BLUE, silent=decoy, **options)
    inputs = painted(painted(green_images(grid), patch, RED), decoy, BLUE)
    assert_peak(relevance(method, model, inputs, grid), decoy if method in OF_ATTENTION else patch)


@pytest.mark.parametrize("method", ["legrad", "legrad, the model's pooling"])
def test_legrad_of_a_pooling_head_sees_also_where_attention_brought_the_red(method: str) -> None:
    # Its map is the gradient at the pooling head's attention: half of what each token has to give, the red of its own
    # and what each block up to there brought it. A patch that asks more is brought more, and outdoes the red one.
    grid, patch, decoy, options = LAYOUTS["pooling head"]
    model, inputs = looking_model(grid, RED, silent=patch, **options), painted(green_images(grid), patch, RED)
    red, tokens = patch[0] * grid[1] + patch[1], 3 + math.prod(grid)
    expected = torch.zeros(math.prod(grid))
    for place in range(math.prod(grid)):
        asks = model.pos_embed[0, 3 + place, 3].item()
        brought = 0.0
        for sharpness in SHARPNESS:
            looks = [math.exp(factor * asks) for factor in sharpness]
            brought += sum(look / (look + tokens - 1) for look in looks) / 2
            expected[place] += ((place == red) + brought) / 2
    patch_map = relevance(method, model, inputs, grid)
    torch.testing.assert_close(patch_map.flatten(), expected, rtol=1e-5, atol=0)
    assert patch_map.argmax() != red
    astray = relevance(method, looking_model(grid, BLUE, silent=decoy, **options), inputs, grid)
    assert_peak(astray, patch)


# One block, uniform attention, the score three times the red of all tokens, 1/17 each, which only the red patch has. By
# hand, at the red patch and elsewhere: A = 1/17; G = 3 at the class token's row and the red patch's column, for the one
# head of two that brings the red, so that means over heads halve; on the path 0, 1/2 and 1 of that.
WEIGHT = 3
BY_HAND = {
    "interaction_uncertainty": (0, 0),  # nothing varies
    "indiscriminative_patches": (0, 0),
    "raw_attention": (SHARE, SHARE),
    "attention_rollout": (SHARE / 2, SHARE / 2),  # (A + I) / 2
    "attention_flow": (SHARE / 2, SHARE / 2),
    "gmar": (SHARE / 2, SHARE / 2),
    "gmar, weights of the last layer": (SHARE / 2, SHARE / 2),
    "attention_grad_cam": (
        WEIGHT / 16 * SHARE / 2,
        WEIGHT / 16 * SHARE / 2,
    ),  # the mean of G over 16 patches, times A
    "dynamic_accumulated_attention": (WEIGHT * SHARE, 0),  # the score itself
    "token_ablation": (WEIGHT * SHARE, WEIGHT * (SHARE - 1 / 16)),  # the mean of one token less
    "gradient_rollout": (3 / 37, 0),  # A G / 2 = 3/34, over 1 + 3/34
    "generic_attention": (WEIGHT * SHARE / 2, 0),  # A G / 2
    "transformer_attribution": (
        WEIGHT / 4,
        0,
    ),  # half of the relevance 1 goes to A, all of it the red patch's; G / 2
    "transition_attention": (WEIGHT * SHARE / 4, 0),  # A times half of the mean of G on the path
    "beyond_intuition": (WEIGHT * SHARE / 4, 0),  # the head that brings the red has all the weight
    "beyond_intuition by token": (WEIGHT * SHARE / 4, 0),  # the red patch's value is as long as its input
    "legrad": (WEIGHT * SHARE / 2, 0),  # each of 17 rows has G = 3/17
    "legrad, the model's pooling": (WEIGHT * SHARE / 2, 0),  # one of 17 rows has G = 3
    "attention_guided_cam": (WEIGHT / 2, 0),  # sigmoid(0) G
    "attn_lrp": (WEIGHT * SHARE, 0),
    "attn_lrp through attention": (WEIGHT * SHARE / 2, 0),  # half goes to query and key, which are 0
}


def test_where_attention_is_uniform_every_value_is_known() -> None:
    # Fields of a U of 0 are those of its ties; the masks of TIS are random.
    assert BY_HAND.keys() == set(FOUND) - {*OF_FIELDS, "tis"}
    model, image = planted_model(), planted_image()
    with torch.no_grad():
        model.head.weight *= WEIGHT
    methods = {**METHODS, **VARIANTS, "legrad": partial(vi.LeGrad, layers=-1)}
    for method, (there, elsewhere) in BY_HAND.items():
        explainer = methods[method](model)
        expected = torch.full((1, 4, 4), float(elsewhere))
        expected[0][PATCH] = there
        patch_map = explainer.patch_map(image, 1 if explainer.class_specific else None)
        torch.testing.assert_close(patch_map, expected, rtol=1e-4, atol=1e-7, msg=lambda m, n=method: f"{n}: {m}")


@pytest.mark.parametrize("name", ["siglip", "test_vit3", "vit", "distilled"])
@every_method
def test_a_model_behind_a_flip_gives_the_flipped_map(method: str, name: str) -> None:
    family = FAMILIES[name]
    twin, inputs = placed(family.build()).double(), family.images().double()
    model = Outer(twin, lambda image: image.flip(-1))
    explain = {**METHODS, **VARIANTS}[method]
    if method == "random_map":
        return
    try:
        expected = explain(twin).patch_map(inputs, 1)
    except vi.UnsupportedModelError:
        return
    assert_near(explain(model).patch_map(inputs.flip(-1), 1).flip(-1), expected, 1e-6)
