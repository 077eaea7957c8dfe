"""Tests of recorded attention against the model's explicit attention and autograd, for every family."""

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.families import Family, tiny
from vit_interactions import AttentionCall, TokenLayout, UnsupportedModelError, record_attention, token_layout
from vit_interactions.attention import unwrap


@contextlib.contextmanager
def explicit_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Let timm compute attention explicitly and collect what passes through each layer's `attn_drop`."""
    maps: list[Tensor] = []
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        for name, module in model.named_modules()
        if name.endswith("attn_drop")
    ]
    for module in fused:
        module.fused_attn = False
    try:
        yield maps
    finally:
        for module in fused:
            module.fused_attn = True
        for hook in hooks:
            hook.remove()


def flags(model: nn.Module, *names: str) -> list[tuple[str, Any]]:
    """List every flag of every module."""
    return [(name, getattr(module, name)) for module in model.modules() for name in names if hasattr(module, name)]


def score_of(output: Tensor) -> Tensor:
    """Score another class of each image."""
    return output[range(len(output)), [3, 1][: len(output)]]


def test_attention_is_the_models_own(family: Family) -> None:
    model, images = family.build(), family.images()
    with torch.no_grad(), record_attention(model) as record:
        model(images)
    with torch.no_grad(), explicit_attention(model) as maps:
        model(images)
    assert len(record.calls) == len(maps) == record.seen == family.layers
    for layer, expected in enumerate(maps):
        attention = record.attention(layer)
        assert attention.shape == (2, family.heads, family.tokens, family.tokens)
        torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
        # Far from uniform; otherwise the comparison would prove nothing.
        assert (attention * family.tokens).amax(-1).mean() > 1.5
        assert attention.amax() > 0.3
    assert (record.attention(0) - record.attention(1)).abs().max() > 0.2


def test_blocks_are_the_attention_among_patches(family: Family) -> None:
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        model(family.images())
    for call in record.calls:
        for index, block in call.blocks(family.prefix):
            expected = call.attention()[..., family.prefix :, family.prefix :][index]
            torch.testing.assert_close(block, expected, rtol=0, atol=1e-6)


def test_pooling_attention_is_the_heads_own(family: Family) -> None:
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        model(family.images())
    assert len(record.pool_calls) == (family.readout == "map")
    if family.readout != "map":
        return
    pool = model.get_submodule(record.pool_calls[0].name)
    seen: list[Tensor] = []
    with torch.no_grad(), contextlib.ExitStack() as stack:
        hook = pool.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        stack.callback(hook.remove)
        model(family.images())
        heads, width = pool.num_heads, pool.head_dim
        query = pool.q_norm(pool.q(pool.latent).reshape(1, heads, 1, width))
        key = pool.kv(seen[0]).reshape(2, -1, 2, heads, width)[:, :, 0].transpose(1, 2)
        expected = (query @ pool.k_norm(key).mT / width**0.5).softmax(-1)
    result = record.pool_calls[0].attention()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert (result * result.shape[-1]).amax(-1).mean() > 1.5
    weights = record.layout.readout_weights(result)
    assert weights.shape == (2, family.tokens)
    torch.testing.assert_close(weights[:, family.prefix :], result.mean((1, 2))[:, -16:])
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))


def test_recording_leaves_the_output_unchanged(family: Family) -> None:
    model, images = family.build(), family.images()
    with torch.no_grad():
        expected = model(images)
        with record_attention(model):
            recorded = model(images)
        assert torch.equal(recorded, expected)
        assert torch.equal(model(images), expected)
        assert (expected[0] - expected[1]).abs().max() > 1e-2
        with explicit_attention(model), record_attention(model):
            assert torch.equal(model(images), expected)


def test_layout_is_known_from_the_model_and_the_image(family: Family) -> None:
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        model(family.images())
    assert record.image_size == family.size
    for layout in (record.layout, token_layout(model, family.size)):
        assert (layout.prefix, layout.grid, layout.readout) == (family.prefix, family.grid, family.readout)
        assert layout.readout == "map" or layout.pool_prefix == family.pool_prefix
        # Patches that overlap are placed by their centers, the last ones drawn in by the border.
        assert layout.extent == family.extent or layout.extent == pytest.approx(family.extent, abs=3)
        assert layout.tokens == record.calls[0].query.shape[2]


def test_gradients_are_autograds_through_the_explicit_attention(family: Family) -> None:
    model, images = family.build().double(), family.images().double()
    with explicit_attention(model) as maps:
        expected = torch.autograd.grad(score_of(model(images)).sum(), maps)
    with record_attention(model) as record:
        score = score_of(model(images))
    together = record.output_grads(score)
    assert len(together) == family.layers
    for layer, gradient in enumerate(expected):
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(record.attention_grad(layer, score), gradient, rtol=1e-6, atol=1e-9)
        call = record.calls[layer]
        torch.testing.assert_close(call.attention_grad(together[layer]), gradient, rtol=1e-6, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_need_only_an_input_that_requires_grad(family: Family) -> None:
    model, images = family.build(), family.images()
    with record_attention(model) as record:
        expected = record_gradients(record, model(images))
    model.requires_grad_(False)
    images.requires_grad_()
    with record_attention(model) as record:
        gradients = record_gradients(record, model(images))
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)
    assert images.grad is None
    assert not any(parameter.requires_grad for parameter in model.parameters())


def record_gradients(record: Any, output: Tensor) -> list[Tensor]:
    """Compute the gradients of a score at the attention of all layers."""
    grads = record.output_grads(score_of(output))
    return [call.attention_grad(grad) for call, grad in zip(record.calls, grads, strict=True)]


def test_all_gradients_come_from_one_backward_pass(
    families: dict[str, Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = families["vit"]
    model = family.build()
    with record_attention(model) as record:
        score = score_of(model(family.images()))
    passes = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: passes.append(1) or original(*args, **kw))
    record.output_grads(score)
    assert len(passes) == 1
    # The graph is kept for further scores, and a layer's gradient belongs to its image only.
    both = record.attention_grad(0, score)
    torch.testing.assert_close(record.attention_grad(0, score[0])[0], both[0])
    assert record.attention_grad(0, score[0])[1].eq(0).all()


def test_a_score_that_does_not_reach_a_layer_has_gradient_zero(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    with record_attention(model) as record:
        model(family.images())
    gradient = record.attention_grad(2, record.calls[0].output.sum())
    assert gradient.eq(0).all()


def test_without_a_graph_or_with_dropout_there_is_no_gradient(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        output = model(family.images())
    with pytest.raises(RuntimeError, match="recorded without a graph: enable gradients"):
        record.output_grads(output[:, 0])

    dropping = tiny("vit_tiny_patch16_224", img_size=64, attn_drop_rate=0.3).train()
    with record_attention(dropping) as record:
        output = dropping(family.images())
    assert record.calls[0].dropout == 0.3
    with pytest.raises(RuntimeError, match=r"`blocks.0.attn` applied dropout 0.3 .* call `model.eval\(\)`"):
        record.attention_grad(0, output[:, 0])


class Attend(nn.Module):
    """Calls attention as it is told to, with the values as they come."""

    def __init__(self, **options: Any) -> None:
        """Take the options of the call."""
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend."""
        return F.scaled_dot_product_attention(query, key, value, **self.options)


def explicit(query: Tensor, key: Tensor, options: dict[str, Any]) -> Tensor:
    """softmax(q kᵀ · scale + mask) written out."""
    if options.get("enable_gqa"):
        key = torch.cat([key[:, head : head + 1] for head in (0, 0, 1, 1)], 1)
    scores = torch.einsum("...id,...jd->...ij", query, key) * options.get("scale", query.shape[-1] ** -0.5)
    mask = options.get("attn_mask")
    if options.get("is_causal"):
        mask = torch.ones(scores.shape[-2:]).tril() > 0
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


CALLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 4, 6, 8), {}),
    "bool mask": ((2, 4, 6, 8), {"attn_mask": torch.ones(6, 6).tril(1).bool()}),
    "bool mask an image": ((2, 4, 6, 8), {"attn_mask": torch.ones(2, 1, 6, 6).triu(-2).bool()}),
    "added mask": ((2, 4, 6, 8), {"attn_mask": torch.linspace(-2, 2, 144).double().view(1, 4, 6, 6)}),
    "causal": ((2, 4, 6, 8), {"is_causal": True}),
    "scale": ((2, 4, 6, 8), {"scale": 0.9}),
    "shared keys": ((2, 4, 6, 8), {"enable_gqa": True}),
    "shared keys, mask, scale": (
        (2, 4, 6, 8),
        {"enable_gqa": True, "scale": 1.0, "attn_mask": torch.ones(6, 6).tril() > 0},
    ),
    "groups": ((2, 3, 4, 6, 8), {}),
    "groups and mask": ((2, 3, 4, 6, 8), {"attn_mask": torch.linspace(-2, 2, 36).double().view(6, 6)}),
}


@pytest.mark.parametrize(("shape", "options"), CALLS.values(), ids=CALLS)
def test_every_form_of_the_call(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    query = 2 * torch.randn(shape, dtype=torch.float64)
    shared = (2, 2, 6, 8) if options.get("enable_gqa") else shape
    key, value = 2 * torch.randn(2, *shared, dtype=torch.float64)
    model = Attend(**options)
    with record_attention(model) as record:
        score = model(query.requires_grad_(), key, value).sin().sum()
    attention = explicit(query, key, options)
    torch.testing.assert_close(record.attention(0), attention.detach(), rtol=1e-9, atol=1e-12)

    repeated = value.repeat_interleave(shape[-3] // shared[-3], -3)
    attention = attention.detach().requires_grad_()
    (expected,) = torch.autograd.grad((attention @ repeated).sin().sum(), attention)
    torch.testing.assert_close(record.attention_grad(0, score), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mask", [None, "each", "shared"])
def test_heads_folded_into_the_batch_are_unfolded(mask: str | None) -> None:
    query, key, value = 2 * torch.randn(3, 6, 5, 8)  # 2 images x 3 heads
    masks = {None: None, "each": torch.randn(6, 5, 5), "shared": torch.randn(5, 5)}
    model = Attend(attn_mask=masks[mask])
    model.num_heads = 3
    with record_attention(model) as record:
        score = model(query.requires_grad_(), key, value).sin().sum()
    attention = explicit(query, key, model.options).detach().requires_grad_()
    assert record.attention(0).shape == (2, 3, 5, 5)
    torch.testing.assert_close(record.attention(0).flatten(0, 1), attention.detach())
    (expected,) = torch.autograd.grad((attention @ value).sin().sum(), attention)
    torch.testing.assert_close(record.attention_grad(0, score).flatten(0, 1), expected)


def test_heads_that_cannot_be_told_from_the_batch_are_refused() -> None:
    with (
        pytest.raises(
            UnsupportedModelError, match=r"query of shape \(6, 5, 8\).*without an attribute `num_heads`"
        ),
        record_attention(model := Attend()),
    ):
        model(*torch.randn(3, 6, 5, 8))


def test_half_precision_attention_is_float32() -> None:
    model = Attend()
    with record_attention(model) as record:
        model(*torch.randn(3, 1, 2, 5, 8).bfloat16())
    assert record.attention(0).dtype == torch.float32


@pytest.mark.parametrize("reentrant", [False, True])
def test_unfused_and_checkpointed_models_are_read_and_given_back(
    families: dict[str, Family], reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reentrant checkpoints run the blocks forward without a graph.
    monkeypatch.setattr("timm.models._manipulate.use_reentrant_ckpt", lambda: reentrant)
    family = families["vit"]
    model, images = family.build(), family.images()
    with record_attention(model) as record:
        expected = record_gradients(record, model(images))
    model.blocks[0].attn.fused_attn = False
    model.set_grad_checkpointing(True)
    before = flags(model, "fused_attn", "grad_checkpointing")
    assert ("fused_attn", False) in before
    assert ("grad_checkpointing", True) in before
    with record_attention(model) as record:
        gradients = record_gradients(record, model(images))
        assert record.seen == len(record.calls) == family.layers
    assert flags(model, "fused_attn", "grad_checkpointing") == before
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)

    during = []
    images = images.requires_grad_()
    hook = model.blocks[1].register_forward_hook(lambda *_: during.append(flags(model, "fused_attn")) or 1 / 0)
    with pytest.raises(ZeroDivisionError), record_attention(model):
        model(images)
    hook.remove()
    assert during == [[("fused_attn", True)] * 3]
    assert flags(model, "fused_attn", "grad_checkpointing") == before


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_blocks(model: nn.Module) -> nn.Module:
    for index, block in enumerate(model.blocks):
        model.blocks[index] = torch.compile(block, backend="eager")
    return model


def compiled_data_parallel(model: nn.Module) -> nn.Module:
    return torch.compile(nn.DataParallel(model), backend="eager")


@pytest.mark.parametrize("run_before", [False, True])
@pytest.mark.parametrize(
    "wrap", [compiled, compiled_in_place, compiled_blocks, nn.DataParallel, compiled_data_parallel]
)
def test_wrapped_models_are_looked_into(
    families: dict[str, Family], wrap: Callable[[nn.Module], nn.Module], run_before: bool
) -> None:
    family = families["vit"]
    images = family.images()
    with torch.no_grad(), record_attention(plain := family.build()) as expected:
        plain(images)
    torch.compiler.reset()
    wrapped = wrap(family.build())
    with torch.no_grad():
        before = wrapped(images) if run_before else None
        with record_attention(wrapped) as record:
            output = wrapped(images)
        assert before is None or torch.allclose(output, before, atol=1e-5)
        after = wrapped(images)
    torch.testing.assert_close(after, output)
    assert record.layout == expected.layout
    assert len(record.calls) == family.layers
    for layer in range(family.layers):
        torch.testing.assert_close(record.attention(layer), expected.attention(layer))


def test_distributed_data_parallel_is_looked_into(families: dict[str, Family], tmp_path: Path) -> None:
    family = families["vit"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(family.build())
        with record_attention(wrapped) as record:
            record_gradients(record, wrapped(family.images()))
        assert isinstance(unwrap(wrapped), type(family.build()))
        assert len(record.calls) == family.layers
        assert record.layout.grid == family.grid
        assert all(parameter.grad is None for parameter in wrapped.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_scripted_and_traced_models_are_refused(families: dict[str, Family]) -> None:
    family = families["vit"]
    traced = torch.jit.trace(family.build(), family.images())
    scripted = torch.jit.script(family.build())
    for model in (traced, scripted):
        with pytest.raises(UnsupportedModelError, match=r"scripted model.*Give the model it was scripted from"):
            record_attention(model).__enter__()
    # A scripted part would be left out without a word.
    partly = family.build()
    partly.blocks[1] = torch.jit.script(partly.blocks[1])
    with pytest.raises(UnsupportedModelError, match=r"`blocks\.1` is a scripted model"):
        record_attention(partly).__enter__()


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got function"):
        record_attention(lambda x: x).__enter__()  # type: ignore[arg-type]


def test_other_models_are_not_recorded(families: dict[str, Family]) -> None:
    family = families["vit"]
    model, other = family.build(), families["non_square"].build()
    with torch.no_grad(), record_attention(model) as record:
        other(families["non_square"].images())
        F.scaled_dot_product_attention(*torch.randn(3, 1, 1, 4, 4))
        torch.randn(1, 2, 4, 4).softmax(-1)
        assert record.seen == 0
        model(family.images())
        other(families["non_square"].images())
    record.check_read()
    assert len(record.calls) == family.layers
    assert record.image_size == family.size


def test_records_nest(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    other = families["distilled"].build()
    with torch.no_grad(), record_attention(model) as outer:
        with record_attention(model) as inner, record_attention(other) as of_other:
            model(family.images())
            other(family.images())
        model(family.images(seed=7))
    assert (len(outer.calls), len(inner.calls), len(of_other.calls)) == (6, 3, 2)
    for layer in range(3):
        assert torch.equal(outer.attention(layer), inner.attention(layer))


def test_a_second_forward_pass_is_appended(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        model(family.images())
        model(family.images(batch=1, seed=5))
        assert [call.name for call in record.calls] == [f"blocks.{layer}.attn" for layer in (0, 1, 2)] * 2
    model(family.images())
    assert record.seen == 6
    assert record.attention(3).shape[0] == 1
    assert torch.equal(record.attention(-1), record.attention(5))


def test_streaming_hands_calls_on_and_keeps_none(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    kept: list[weakref.ref[AttentionCall]] = []
    attentions: list[Tensor] = []
    alive = []

    def consume(call: AttentionCall) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in kept))
        kept.append(weakref.ref(call))
        attentions.append(call.attention())
        assert not torch.is_grad_enabled()

    with record_attention(model, consume) as record:
        model(family.images())
    assert alive == [0, 0, 0]
    assert record.calls == []
    assert record.seen == 3
    with torch.no_grad(), record_attention(model) as whole:
        model(family.images())
    for layer, attention in enumerate(attentions):
        assert torch.equal(attention, whole.attention(layer))


def test_a_record_of_nothing_says_so(families: dict[str, Family]) -> None:
    model = families["vit"].build()
    with record_attention(model) as record:
        pass
    with pytest.raises(RuntimeError, match="no forward pass has been recorded: call the model inside"):
        _ = record.layout
    with pytest.raises(IndexError, match=r"`layer` must lie in \[0, -1\], got 0"):
        record.attention(0)
    record.check_read()


def test_layers_out_of_range_are_refused(families: dict[str, Family]) -> None:
    family = families["vit"]
    model = family.build()
    with torch.no_grad(), record_attention(model) as record:
        model(family.images())
    for layer in (3, -4):
        with pytest.raises(IndexError, match=rf"`layer` must lie in \[-3, 2\], got {layer}"):
            record.attention(layer)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (TokenLayout(1, 1, 3, "token", (16, 48)), [1, 0, 0, 0]),
        (TokenLayout(2, 1, 2, "distilled", (16, 32)), [0.5, 0.5, 0, 0]),
        (TokenLayout(2, 1, 2, "avg", (16, 32)), [0, 0, 0.5, 0.5]),
        (TokenLayout(2, 1, 2, "avg", (16, 32), pool_prefix=True), [0.25] * 4),
        (TokenLayout(0, 2, 2, "avg", (32, 32)), [0.25] * 4),
    ],
)
def test_readout_weights_by_hand(layout: TokenLayout, expected: list[float]) -> None:
    assert layout.readout_weights().tolist() == [expected]


def test_readout_weights_of_a_pooling_head() -> None:
    layout = TokenLayout(prefix=1, rows=1, cols=2, readout="map", extent=(16, 32))
    # 1 image, 2 heads, 1 latent; over the two patches, then over all three tokens.
    over_patches = torch.tensor([[[[0.25, 0.75]], [[0.75, 0.25]]]])
    assert layout.readout_weights(over_patches).tolist() == [[0, 0.5, 0.5]]
    over_tokens = torch.tensor([[[[0.5, 0.25, 0.25]], [[0.0, 0.75, 0.25]]]])
    assert layout.readout_weights(over_tokens).tolist() == [[0.25, 0.5, 0.25]]
    with pytest.raises(ValueError, match="over 3 tokens or 2 patches, got none"):
        layout.readout_weights()
    with pytest.raises(ValueError, match=r"got shape \(1, 2, 1, 4\)"):
        layout.readout_weights(torch.zeros(1, 2, 1, 4))
