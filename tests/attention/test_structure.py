"""Test that models of unusual structure get the maps of an equivalent timm model, or raise an error."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.twins import SIDE, Attends, Outer, assert_twins, attending, fused, images, one_by_one, vit
from vit_interactions import UnsupportedModelError


def chunks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = zip(*(tensor.chunk(2, 1) for tensor in (query, key, value)), strict=True)
    return torch.cat([fused(*part) for part in parts], 1)


def difference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return fused(query, key, value) - 0.5 * fused(query.flip(-1), key, value)


def difference_in_a_loop(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return sum((sign * fused(query * scale, key, value) for sign, scale in ((1, 1), (-0.5, 2))), 0 * value)


def difference_mapped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    one, two = map(lambda scale: fused(query * scale, key, value), (1, 2))
    return one - 0.5 * two


@pytest.mark.parametrize("attend", [one_by_one, chunks])
def test_heads_in_several_calls_are_joined(attend: Any) -> None:
    assert_twins(attending(attend, num_heads=4), vit(num_heads=4))


@pytest.mark.parametrize("attend", [difference, difference_in_a_loop, difference_mapped])
def test_differential_attention_is_refused_wherever_it_is_called_from(attend: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"`blocks\.0\.attn` combines 2 attention maps into one"):
        vi.AttentionRollout(attending(attend)).patch_map(images())


def test_parallel_branches_are_refused() -> None:
    model = vit()
    one, two = model.blocks[1].attn, vit().blocks[2].attn

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x: Tensor, **_: Any) -> Tensor:
            return self.one(x) + self.two(x)

    model.blocks[1].attn = Both()
    with pytest.raises(UnsupportedModelError, match=r"run side by side and combine 2 attention maps"):
        vi.AttentionRollout(model).patch_map(images())


class Siamese(nn.Module):
    """A model that compares two images."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = vit()

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return self.vit(one) * self.vit(two)


class TwoPasses(nn.Module):
    """A model that runs its ViT twice, the second time on a changed image."""

    def __init__(self, second: Any) -> None:
        super().__init__()
        self.vit, self.second = vit(), second

    def forward(self, x: Tensor) -> Tensor:
        first = self.vit(x)
        return first + self.vit(self.second(x, first))


class Ensemble(nn.Module):
    """The sum of several models."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return sum(model(x) for model in self.models)


SEVERAL: dict[str, nn.Module] = {
    "test-time augmentation": TwoPasses(lambda x, first: x.flip(-1)),
    "masked by the first pass": TwoPasses(lambda x, first: x * first.sigmoid().mean()),
    "ensemble": Ensemble(vit(), vit()),
    "beside a convolutional network": Ensemble(
        vit(), nn.Sequential(nn.Conv2d(3, 5, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_passes_and_models_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"several passes|an ensemble"):
        vi.AttentionRollout(SEVERAL[name].eval()).patch_map(images())


def test_siamese_models_are_refused_whatever_the_second_image_is() -> None:
    model, x = Siamese().eval(), images()
    for second in (x.flip(-1), x):
        with pytest.raises(UnsupportedModelError, match=r"several passes"):
            vi.AttentionRollout(model).patch_map(x, additional_forward_args=second)


def test_a_tower_that_the_image_does_not_reach_is_ignored() -> None:
    class WithText(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.vit = vit(), vit()
            self.register_buffer("words", torch.randn(1, 17, 32).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x) * self.text.head(self.text.blocks(self.words)[:, 0]).exp()

    model = WithText().eval()
    seen = vi.probe(model, (SIDE, SIDE)).structure
    assert seen is not None
    # The text tower runs after the ViT.
    assert (seen.ignored, seen.layers) == ((3, 4, 5), ((0,), (1,), (2,)))
    rollout = vi.AttentionRollout(model).patch_map(images())
    torch.testing.assert_close(rollout, vi.AttentionRollout(model.vit).patch_map(images()))


def test_class_attention_layers_are_refused_by_name() -> None:
    model = vit()
    model.blocks[2].attn = Attends(model.blocks[2].attn, lambda q, k, v: fused(q[:, :, :1], k, v).expand_as(v))
    with pytest.raises(UnsupportedModelError, match=r"`blocks\.2\.attn` attends from 1 of the tokens to 17"):
        vi.AttentionRollout(model).patch_map(images())


def test_an_early_exit_is_explained_by_the_layers_that_ran() -> None:
    model, twin = vit(depth=3), vit(depth=2)
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if "blocks.2" not in key})
    model.blocks = model.blocks[:2]
    assert_twins(model, twin)


def test_layers_whose_output_is_not_used_are_left_out() -> None:
    class Spare(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            self.block(x)
            return x

    model, twin = vit(depth=3), vit(depth=2)
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if "blocks.2" not in key})
    model.blocks[2] = Spare(model.blocks[2])
    assert vi.probe(model, images()).structure.ignored == (2,)
    assert_twins(model, twin)


PLACED: dict[str, tuple[Any, Any]] = {
    "flip": (lambda x: x.flip(-1), lambda maps: maps.flip(-1)),
    "upside down": (lambda x: x.flip(-2), lambda maps: maps.flip(-2)),
    "turned": (lambda x: x.mT, lambda maps: maps.mT),
    "normalized": (lambda x: (x - 0.5) / 0.5, lambda maps: maps),
}


@pytest.mark.parametrize("name", PLACED)
def test_what_a_wrapper_does_to_the_image_is_undone_in_the_map(name: str) -> None:
    before, place = PLACED[name]
    twin = Outer(vit(), lambda x: x)
    model = Outer(vit(), before)
    for method in (vi.AttentionRollout, vi.InteractionUncertainty):
        found = method(model).patch_map(images())
        torch.testing.assert_close(found, place(method(twin).patch_map(before(images()))))


def test_a_resize_inside_is_placed_on_the_whole_image() -> None:
    model = Outer(vit(), lambda x: nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear"))
    x = torch.rand(1, 3, 96, 160).double()
    layout = vi.probe(model, x).layout
    assert (layout.grid, layout.extent) == ((4, 4), (96, 160))
    torch.testing.assert_close(
        vi.AttentionRollout(model).patch_map(x), vi.AttentionRollout(model.vit).patch_map(model.before(x))
    )


@pytest.mark.parametrize(
    "before", [lambda x: x[..., 8:-8, 8:-8], lambda x: nn.functional.pad(x, (8, 8, 8, 8))[..., :SIDE, :SIDE]]
)
def test_crops_and_pads_inside_are_refused(before: Any) -> None:
    x = torch.rand(1, 3, 80, 80).double() if before(images()).shape[-1] != SIDE else images()
    with pytest.raises(UnsupportedModelError, match="the model crops, pads or resizes the image itself"):
        vi.AttentionRollout(Outer(vit(), before)).patch_map(x)


class Reordered(nn.Module):
    """Puts the tokens in another order for the blocks, and back."""

    def __init__(self, blocks: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.blocks, self.order = blocks, order

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x[:, self.order])[:, self.order.argsort()]


@pytest.mark.parametrize("kind", ["permuted", "prefix last", "prefix in the middle"])
def test_tokens_in_any_order_are_put_right(kind: str) -> None:
    order = {
        "permuted": torch.cat((torch.tensor([0]), 1 + torch.randperm(16))),
        "prefix last": torch.arange(17).roll(-1),
        "prefix in the middle": torch.cat((torch.arange(1, 9), torch.tensor([0]), torch.arange(9, 17))),
    }[kind]
    model = vit()
    model.blocks = Reordered(model.blocks, order)
    assert_twins(model, vit())


def through(module: nn.Module, change: Any) -> nn.Module:
    module.register_forward_hook(lambda _, args, output: change(output))
    return module


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
@pytest.mark.parametrize("where", ["between layers", "attention"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_detached_gradients_are_an_error_in_gradient_methods(where: str, layer: int) -> None:
    model = vit()
    through(model.blocks[layer] if where == "between layers" else model.blocks[layer].attn, torch.detach)
    with pytest.raises(UnsupportedModelError, match=r"cut|does not reach|detach"):
        vi.GenericAttention(model).patch_map(images(), 1)


def without_gradient(function: Any) -> Any:
    return torch.no_grad()(function)


CUTS: dict[str, Any] = {
    "detach": lambda x, f: x + f(x.detach()),
    "no_grad": lambda x, f: x + without_gradient(f)(x),
    "data": lambda x, f: x + f(x.data),
    "a number": lambda x, f: x * x.std().item() + f(x),
    "a part": lambda x, f: x + f(torch.cat((x[..., :16], x[..., 16:].detach()), -1)),
}
HARMLESS: dict[str, Any] = {
    "kept for later": lambda x, f: x + f(x) + 0 * without_gradient(f)(x).detach(),
    "for stability": lambda x, f: x + f((x - x.amax(-1, keepdim=True).detach()).softmax(-1)),
    "the shape only": lambda x, f: x * torch.ones_like(x) + f(x),
    "a mask": lambda x, f: x + f(x) * (x.detach() > x.detach().mean(-1, keepdim=True)),
    "an index": lambda x, f: x + f(x) * x.detach().argsort(-1),
    "random": lambda x, f: x + f(x) + 0.1 * torch.randn_like(x),
}


class Combines(nn.Module):
    """Combines tokens with what a function makes of them."""

    def __init__(self, inner: nn.Module, combine: Any) -> None:
        super().__init__()
        self.inner, self.combine = inner, combine

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return self.combine(x, self.inner)


def combining(combine: Any, dtype: torch.dtype) -> nn.Module:
    model = vit().to(dtype)
    model.blocks[1].mlp = Combines(model.blocks[1].mlp, combine)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_on_one_of_two_paths_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedModelError, match=r"the gradient is cut: `blocks\.1\.mlp"):
        vi.probe(combining(CUTS[name], dtype), (SIDE, SIDE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_leaves_the_graph_without_consequence_is_no_cut(name: str, dtype: torch.dtype) -> None:
    plain = vi.probe(vit().to(dtype), (SIDE, SIDE)).layout
    assert vi.probe(combining(HARMLESS[name], dtype), (SIDE, SIDE)).layout == plain


def test_a_derivative_of_its_own_is_no_cut() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.detach() * 2 * x.abs().sign().mean()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    vi.probe(combining(lambda x, f: f(Doubled.apply(x)), torch.float64), (SIDE, SIDE))


def test_a_cut_of_what_the_image_does_not_reach_is_no_cut() -> None:
    model = vit()
    model.pos_embed = None
    model.position = nn.Parameter(torch.randn(1, 17, 32).double())
    through(model.norm_pre, lambda x: x + (2 * model.position).detach())
    assert vi.probe(model, (SIDE, SIDE)).layout.prefix == 1


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_detached_part_of_an_attention_is_refused(part: str) -> None:
    cut = ("query", "key", "value").index(part)

    def attend(*parts: Tensor) -> Tensor:
        return fused(*(tensor.detach() if place == cut else tensor for place, tensor in enumerate(parts)))

    with pytest.raises(
        UnsupportedModelError, match=rf"the {part} of `blocks\.0\.attn` has no gradient with respect to the image"
    ):
        vi.GenericAttention(attending(attend)).patch_map(images(), 1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_convolutions_among_tokens_are_refused(layer: int) -> None:
    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.roll(1, 1)

    model = vit()
    model.blocks[layer].mlp = Mixes()
    with pytest.raises(UnsupportedModelError, match=r"exchange information between `blocks\.\d\.attn` and"):
        vi.InteractionUncertainty(model).patch_map(images())


SQUARE = torch.arange(16).reshape(2, 2, 2, 2)
WINDOWS = {
    "rows": torch.arange(16),
    "columns": torch.arange(16).reshape(4, 4).T.flatten(),
    "squares": SQUARE.transpose(1, 2).flatten(),
    "every other": SQUARE.permute(1, 3, 0, 2).flatten(),
}


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_in_the_place_of_heads_are_refused_as_windows(name: str, explicit: bool) -> None:
    order = WINDOWS[name]

    def attend(*parts: Tensor) -> Tensor:
        query, key, value = (part[:, :, order].unflatten(2, (4, 4)).flatten(1, 2) for part in parts)
        output = (query @ key.mT).softmax(-1) @ value if explicit else fused(query, key, value)
        return output.unflatten(1, (-1, 4)).flatten(2, 3)[:, :, order.argsort()]

    model = attending(attend, class_token=False, global_pool="avg")
    with pytest.raises(UnsupportedModelError, match=r"`blocks\.0\.attn` attends within windows .* \(1, 8, 4, "):
        vi.AttentionRollout(model).patch_map(images())


def test_a_pruned_head_is_no_window() -> None:
    model = vit()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.unflatten(0, (3, 2, -1))[2, 0] = 0
    assert vi.probe(model, (SIDE, SIDE)).layout == vi.probe(vit(), (SIDE, SIDE)).layout


@pytest.mark.parametrize("start", [1, 3, 7])
@pytest.mark.parametrize("axis", [-1, -2])
def test_a_small_crop_before_an_overlapping_stem_is_refused(start: int, axis: int) -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 8, 8, 16, 32)
            self.layers = nn.Sequential(
                *(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
            ).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).flatten(2).transpose(1, 2)

    model = vit()
    model.patch_embed = Stem()
    side = {-1: "width", -2: "height"}[axis]
    x = torch.rand(1, 3, SIDE, SIDE).double()
    assert vi.probe(model, x).layout.extent == (SIDE, SIDE)
    with pytest.raises(UnsupportedModelError, match=rf"cover pixels {start} to 64 of the image's {side} of 64"):
        vi.probe(Outer(model, lambda x: x.narrow(axis, start, SIDE - start)), x)
    # What is cut off at the other end leaves the patches where they are.
    seen = vi.probe(Outer(model, lambda x: x[..., :SIDE, :SIDE]), (SIDE + start // 2, SIDE + start // 2))
    assert seen.layout.extent == (SIDE, SIDE)


def test_a_shift_by_whole_patches_is_placed_where_the_pixels_are() -> None:
    model = Outer(vit(), lambda x: nn.functional.pad(x, (16, 0, 16, 0))[..., :SIDE, :SIDE])
    layout = vi.probe(model, (SIDE, SIDE)).layout
    assert (layout.prefix, layout.grid, layout.extent) == (8, (3, 3), (48, 48))
    shifted = vi.InteractionUncertainty(model.vit).uncertainty(model.before(images())).unflatten(1, (4, 4))
    inner = shifted[:, 1:, 1:].flatten(1, 2).unflatten(-1, (4, 4))[..., 1:, 1:].flatten(2)
    torch.testing.assert_close(vi.InteractionUncertainty(model).uncertainty(images()), inner)
