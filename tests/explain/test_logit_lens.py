"""Tests of scoring the output of each block alone, and of errors for unsupported structures."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.explicit_attention import close, images, vit
from vit_interactions.attention import UnsupportedModelError, probe
from vit_interactions.explain.legrad import LeGrad, Pool


class Around(nn.Module):
    """A ViT with something before and after it."""

    def __init__(self, after: Callable[[Tensor], Any]) -> None:
        """Take what is done with the ViT's output."""
        super().__init__()
        self.vit, self.after = vit(), after

    def forward(self, image: Tensor, factor: float = 1.0) -> Any:
        """Scale the image, run the ViT, do what is to be done."""
        return self.after(self.vit(image * factor))


def test_further_arguments_and_a_model_around_the_model() -> None:
    x = images()
    expected = LeGrad(vit()).patch_map(x * 2, 1)
    torch.testing.assert_close(LeGrad(Around(lambda output: output)).patch_map(x, 1, 2.0), expected)
    torch.testing.assert_close(LeGrad(Around(lambda output: 3 * output)).patch_map(x, 1, 2.0), 3 * expected)
    nested = LeGrad(Around(lambda output: {"a": [output], "n": 1}))
    result = nested.patch_map(x, lambda output: output["a"][0][:, output["n"]], 2.0)
    torch.testing.assert_close(result, expected)


@dataclass
class Output:
    """An output whose scores are an attribute."""

    logits: Tensor


@pytest.mark.parametrize("layers", [-1, "all"])
@pytest.mark.parametrize(
    "kind", [Output, lambda logits: SimpleNamespace(logits=logits)], ids=["dataclass", "names"]
)
def test_scores_may_be_an_attribute_of_any_object(kind: Callable[[Tensor], Any], layers: Any) -> None:
    x = images()
    expected = LeGrad(vit(), layers=layers).patch_map(x, 1)
    close(LeGrad(Around(kind), layers=layers).patch_map(x, 1), expected, 1e-12)


class BesideTheImages(nn.Module):
    """A ViT whose output is scaled by a further argument, one factor per image."""

    def __init__(self) -> None:
        """Build the ViT."""
        super().__init__()
        self.vit = vit(num_classes=3)

    def forward(self, image: Tensor, factor: Tensor) -> Tensor:
        """Scale the output of each image."""
        output: Tensor = self.vit(image) * factor[:, None]
        return output


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
@pytest.mark.parametrize("layers", [-2, "all"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
def test_arguments_may_be_read_after_the_blocks(pool: Any, layers: Any, batch: int) -> None:
    model, x, factor = BesideTheImages(), images(batch), torch.arange(1.0, batch + 1).double()
    expected = LeGrad(model.vit, pool=pool, layers=layers).patch_map(x, 2) * factor[:, None, None]
    close(LeGrad(model, pool=pool, layers=layers).patch_map(x, 2, factor), expected, 1e-12)
    assert expected.max() > 1e-3


def test_what_follows_the_blocks_may_overwrite_their_output() -> None:
    class Doubles(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return state.mul_(2)

    model, x = vit(), images()
    model.norm.eps = 0.0  # so that it undoes the doubling
    expected = [LeGrad(model, pool=pool).patch_map(x, target=1) for pool in get_args(Pool)]
    model.norm = nn.Sequential(Doubles(), model.norm)
    for pool, one in zip(get_args(Pool), expected, strict=True):
        close(LeGrad(model, pool=pool).patch_map(x, target=1), one, 1e-12)


WATCHED: list[nn.Module] = []


def test_blocks_keep_their_own_forward_meanwhile() -> None:
    model, x = vit(), images()
    WATCHED[:] = [model]  # a hook's own variables lead to the copy that runs
    expected = LeGrad(model).patch_map(x, target=1)
    own = model.blocks[1].forward
    model.blocks[1].forward = own
    close(LeGrad(model).patch_map(x, target=1), expected, 1e-12)
    assert [vars(block).get("forward") for block in model.blocks] == [None, own, None]
    runs: list[Any] = []

    def failing(module: nn.Module, args: Any) -> None:
        runs.append([vars(block).get("forward") for block in WATCHED[0].blocks])
        if len(runs) == 3:
            raise ZeroDivisionError

    model.head.register_forward_pre_hook(failing)
    with pytest.raises(ZeroDivisionError):
        LeGrad(model).patch_map(x, target=1)
    assert runs == [[None, own, None]] * 3
    assert [vars(block).get("forward") for block in model.blocks] == [None, own, None]


def test_parts_need_no_names() -> None:
    inner, x = vit(global_pool="avg", class_token=False), images()
    model = Bare(inner)
    close(LeGrad(model).patch_map(x, target=3), LeGrad(inner).patch_map(x, target=3), 1e-12)


def test_blocks_may_overwrite_what_they_are_given() -> None:
    class Overwrites(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, state: Tensor) -> Tensor:
            return state.add_(self.block(state.clone()) - state)

    model, x = vit(), images()
    expected = LeGrad(model, layers="all").patch_map(x, target=1)
    model.blocks = nn.Sequential(*map(Overwrites, model.blocks))
    close(LeGrad(model, layers="all").patch_map(x, target=1), expected, 1e-12)


def test_one_pass_runs_the_blocks_and_keeps_the_graph_of_the_used_ones_only() -> None:
    model, x = vit(), images()
    model.requires_grad_(False)
    ran: list[Any] = []
    alive: list[list[int]] = []
    saved: list[tuple[int, weakref.ref[Kept]]] = []

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())  # with its graph, an operation that saves its own result would keep itself
        saved.append((ran[-1] if ran else -1, weakref.ref(kept)))
        return kept

    for number, block in enumerate(model.blocks):
        block.norm1.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    model.norm.register_forward_pre_hook(
        lambda *_: alive.append(sorted({number for number, kept in saved if kept() is not None}))
    )
    explainer = LeGrad(model)
    probe(model, x)
    ran.clear()
    alive.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        explainer.patch_map(x, target=0)
    assert ran == [0, 1, 2]
    assert alive[0] == [1, 2]
    assert len(alive) == explainer.forwards == 3  # once more for each used block
    assert explainer.backwards == 2
    assert explainer.class_specific


class Kept:
    """A tensor that a graph keeps."""

    def __init__(self, tensor: Tensor) -> None:
        """Keep it."""
        self.tensor = tensor


class Bare(nn.Module):
    """A ViT whose blocks, norm and head have names of their own."""

    def __init__(self, inner: Any) -> None:
        """Take the parts of one."""
        super().__init__()
        self.inner = [inner]  # out of sight
        self.patch_embed, self.layers, self.end, self.head = (
            inner.patch_embed,
            inner.blocks,
            inner.norm,
            inner.head,
        )
        self.num_prefix_tokens, self.global_pool = 0, "avg"

    def tokens(self, image: Tensor) -> Tensor:
        """Embed the patches."""
        embedded: Tensor = self.inner[0]._pos_embed(self.patch_embed(image))
        return embedded

    def forward(self, image: Tensor) -> Tensor:
        """Classify the mean of the patches."""
        output: Tensor = self.head(self.inner[0].fc_norm(self.end(self.layers(self.tokens(image)))).mean(1))
        return output


class ReadsTwoBlocks(Bare):
    """A model that reads its output from its last block and the one before it."""

    def forward(self, image: Tensor) -> Tensor:
        """Add up the outputs of both."""
        first = self.layers[:2](self.tokens(image))
        output: Tensor = self.head((self.layers[2](first) + first).mean(1))
        return output


class AddsBetweenBlocks(Bare):
    """A model that changes the tokens between two blocks."""

    def forward(self, image: Tensor) -> Tensor:
        """Add something."""
        output: Tensor = self.head(self.layers[2](self.layers[:2](self.tokens(image)) + 1).mean(1))
        return output


class AddsInPlace(Bare):
    """A model that changes the tokens between two blocks in place."""

    def forward(self, image: Tensor) -> Tensor:
        """Add something."""
        output: Tensor = self.head(self.layers[2](self.layers[:2](self.tokens(image)).add_(1)).mean(1))
        return output


class CallsForward(Bare):
    """A model that runs its blocks without their hooks."""

    def forward(self, image: Tensor) -> Tensor:
        """Run them by `forward`."""
        tokens = self.tokens(image)
        for block in self.layers:
            tokens = block.forward(tokens)
        output: Tensor = self.head(tokens.mean(1))
        return output


class OpensBlocks(Bare):
    """A model that runs the parts of its blocks."""

    def forward(self, image: Tensor) -> Tensor:
        """Run them one by one."""
        tokens = self.tokens(image)
        for block in self.layers:
            tokens = tokens + block.attn(block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        output: Tensor = self.head(tokens.mean(1))
        return output


class Feed(nn.Sequential):
    """The second part of a block, of another class than the part that attends."""


class ListsOfParts(Bare):
    """Keeps the parts of each block in a list."""

    def __init__(self, inner: Any) -> None:
        """Take the blocks apart."""
        super().__init__(inner)
        parts = ([nn.Sequential(b.norm1, b.attn), Feed(b.norm2, b.mlp)] for b in self.layers)
        self.layers = nn.ModuleList(map(nn.ModuleList, parts))

    def forward(self, image: Tensor) -> Tensor:
        """Run the parts."""
        tokens = self.tokens(image)
        for attend, feed in self.layers:
            tokens = tokens + attend(tokens)
            tokens = tokens + feed(tokens)
        output: Tensor = self.head(tokens.mean(1))
        return output


class NoList(Bare):
    """Has blocks, but no list of them."""

    def __init__(self, inner: Any) -> None:
        """Name them one by one."""
        super().__init__(inner)
        self.one, self.two, self.three = self.layers
        del self.layers

    def forward(self, image: Tensor) -> Tensor:
        """Run them one by one."""
        output: Tensor = self.head(self.three(self.two(self.one(self.tokens(image)))).mean(1))
        return output


class TokensFirst(Bare):
    """Turns the axes of its tokens around the blocks."""

    def __init__(self, inner: Any) -> None:
        """Wrap each block."""
        super().__init__(inner)
        self.layers = nn.Sequential(*map(Turned, self.layers))

    def forward(self, image: Tensor) -> Tensor:
        """Turn, run, turn back."""
        output: Tensor = self.head(self.layers(self.tokens(image).transpose(0, 1)).mean(0))
        return output


class Turned(nn.Module):
    """A block whose first axis is that of the tokens."""

    def __init__(self, block: nn.Module) -> None:
        """Take the block."""
        super().__init__()
        self.block = block

    def forward(self, state: Tensor) -> Tensor:
        """Turn, run, turn back."""
        output: Tensor = self.block(state.transpose(0, 1)).transpose(0, 1)
        return output


def _shared() -> nn.Module:
    model = vit()
    model.blocks[2] = model.blocks[1]
    return model


def _bare(kind: type[Bare]) -> Callable[[], nn.Module]:
    return lambda: kind(vit(global_pool="avg", class_token=False))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_shared, "VisionTransformer runs 3 attention layers in 2 blocks"),
        (
            lambda: vit("vit_small_patch16_18x2_224", depth=2),
            "run side by side and combine 2 attention maps into one",
        ),
        (
            lambda: vit("vit_small_patch16_18x2_224", depth=1),
            "run side by side and combine 2 attention maps into one",
        ),
        (_bare(NoList), "NoList has no nn.ModuleList or nn.Sequential that contains all of its attention layers"),
        (_bare(AddsBetweenBlocks), "Block does not get exactly the output of the block before it"),
        (_bare(AddsInPlace), "Block does not get exactly the output of the block before it"),
        (_bare(ReadsTwoBlocks), "ReadsTwoBlocks would have .* also depends on earlier blocks"),
        (_bare(CallsForward), "Block is a block that is called 0 times, not once"),
        (_bare(OpensBlocks), "Block is a block that is called 0 times, not once"),
        (_bare(ListsOfParts), "ModuleList is a block that is called 0 times, not once"),
        (_bare(TokensFirst), r"Turned returns \(9, 2, 32\), not one tensor \(batch, 9 tokens, channels\)"),
    ],
    ids=[
        "shared",
        "parallel",
        "parallel alone",
        "no list",
        "between",
        "between, in place",
        "two blocks",
        "called by forward",
        "opened",
        "lists of parts",
        "tokens first",
    ],
)
def test_models_of_another_structure_are_refused_with_the_reason(build: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        LeGrad(build()).patch_map(images(), target=0)
