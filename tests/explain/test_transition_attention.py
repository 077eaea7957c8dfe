"""Tests of TAM against loops in float64, its limits and properties, and the path it shares with BI."""

import pytest
import torch
from torch import Tensor

from tests.helpers.explicit_attention import (
    READOUTS,
    close,
    explicit,
    images,
    integrated,
    positive_mean,
    vit,
)
from tests.helpers.families import CLASSES
from vit_interactions.explain.attention_path import read_tokens
from vit_interactions.explain.transition_attention import TransitionAttention
from vit_interactions.functional.integrated_gradient import path_fractions, positive_gradient


def test_a_model_that_attends_uniformly_shows_the_weights_alone() -> None:
    model, x = vit(), images()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:64] = 0.0  # queries and keys
            block.attn.qkv.bias[:64] = 0.0
    weights = integrated(model, x, lambda output: output[:, 3], 3)
    for start in range(3):
        result = TransitionAttention(model, steps=3, start=start).patch_map(x, target=3).flatten(1)
        for b in range(2):
            expected = [2.0 ** (2 - start) / 10 * positive_mean(weights[b], 0, 1 + j) for j in range(9)]
            close(result[b], expected, 1e-12)


@pytest.mark.parametrize(("steps", "start"), [(1, 0), (2, 1), (5, 0), (4, 2)])
@pytest.mark.parametrize("readout", READOUTS)
def test_it_is_the_equation_in_loops(readout: str, steps: int, start: int) -> None:
    """State ← Ābar_{L-1}[0,:];  state ← state Ābar_l + state;  W = mean_h max(mean_k G, 0)[0,:];  state · W."""
    build, read = READOUTS[readout]
    model, x, target = build(), images(), 2
    seen = explicit(model, x)
    averaged = [attention.mean(1).tolist() for attention in seen.attentions]
    weights = integrated(model, x, lambda output: output[:, target], steps)
    result = TransitionAttention(model, steps=steps, start=start).patch_map(x, target=target).flatten(1)
    tokens = seen.attentions[0].shape[-1]
    for b in range(2):
        state = [sum(averaged[-1][b][i][j] for i in read) / len(read) for j in range(tokens)]
        for layer in range(len(averaged) - 2, start - 1, -1):
            state = [
                sum(state[i] * averaged[layer][b][i][j] for i in range(tokens)) + state[j] for j in range(tokens)
            ]
        weight = [sum(positive_mean(weights[b], i, j) for i in read) / len(read) for j in range(tokens)]
        expected = [state[j] * weight[j] for j in range(tokens)][-9:]
        close(result[b], expected, 1e-7 * max(expected))  # the readout 1/9 is float32
        assert max(expected) > 1e-5


def test_the_path_has_both_ends_and_is_clamped_after_averaging() -> None:
    assert path_fractions(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert path_fractions(1) == [1.0]
    # Heads are clamped one by one: 3 and -1 give 1.5, not 1.
    close(positive_gradient(torch.tensor([[[[3.0]], [[-1.0]]]])), 1.5)
    # Of two points, 3 and -5 give nothing; clamped before averaging it would be 1.5.
    model, x = vit(), images()
    points = [integrated(model, x * factor, lambda output: output[:, 0], 1) for factor in (0.0, 1.0)]
    before = torch.tensor(points).clamp(min=0).mean((0, 2))[:, 0, 1:]
    after = torch.tensor(points).mean(0).clamp(min=0).mean(1)[:, 0, 1:]
    assert (before - after).abs().max() > 1e-3
    last = explicit(model, x).attentions[-1].mean(1)[:, 0, 1:]
    result = TransitionAttention(model, steps=2, start=2).patch_map(x, target=0).flatten(1)
    torch.testing.assert_close(result, last.detach() * after, rtol=1e-6, atol=1e-9)


def test_without_integration_the_weights_are_the_gradient_at_the_image() -> None:
    model, x = vit(), images()
    passes: list[int] = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    result = TransitionAttention(model, steps=1, start=2).patch_map(x, target=1).flatten(1)
    handle.remove()
    assert len(passes) == 2  # the probe comes first
    seen = explicit(model, x)
    weights = seen.gradients(seen.output[:, 1])[-1].clamp(min=0).mean(1)[:, 0, 1:]
    torch.testing.assert_close(result, seen.attentions[-1].mean(1)[:, 0, 1:].detach() * weights)


def test_the_predicted_class_is_that_of_the_image_on_the_whole_path() -> None:
    model, x = vit(), images(4)
    with torch.no_grad():
        classes = model(x).argmax(1)
        assert (model(torch.zeros_like(x)).argmax(1) != classes).any()
    explainer = TransitionAttention(model, steps=4, start=0)
    assert torch.equal(explainer.patch_map(x, target="pred"), explainer.patch_map(x, target=classes))
    assert torch.equal(
        explainer.patch_map(x, target=lambda output: output[:, 1]), explainer.patch_map(x, target=1)
    )


def test_images_of_a_batch_do_not_mix_on_the_path() -> None:
    model, x = vit(), images(3)
    explainer = TransitionAttention(model, steps=3, start=0)
    together = explainer.patch_map(x, target=[0, 3, 4])
    alone = torch.cat([explainer.patch_map(x[b : b + 1], target=[t]) for b, t in enumerate([0, 3, 4])])
    torch.testing.assert_close(together, alone)


def test_read_tokens_are_those_with_a_share() -> None:
    assert read_tokens(torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.1, 0.4]])).tolist() == [0, 1, 2]
    assert read_tokens(torch.tensor([[0.5, 0.5, 0.0]])).tolist() == [0, 1]


def test_memory_of_the_path_is_the_read_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_interactions.explain import attention_path

    shapes = []
    inner = attention_path._gradient_rows

    def spy(*args: object) -> Tensor:
        shapes.append(tuple(inner(*args).shape))
        return inner(*args)

    monkeypatch.setattr(attention_path, "_gradient_rows", spy)
    TransitionAttention(vit(), steps=3, start=0).patch_map(images(), target=0)
    assert shapes == [(2, 2, 1, 10), (4, 2, 1, 10)]  # the images, then the two other points together


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps`, the points of the path, must be an integer >= 1, got 0"),
        ({"steps": 2.5}, "`steps`, the points of the path, must be an integer >= 1, got 2.5"),
        ({"steps": True}, "`steps`, the points of the path, must be an integer >= 1, got True"),
        ({"start": -1}, "`start` must be >= 0, got -1"),
    ],
)
def test_options_outside_their_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransitionAttention(vit(), **options)


def test_a_model_of_too_few_blocks_is_told_so() -> None:
    with pytest.raises(ValueError, match="`start` must be < 3, the model's blocks, got 3"):
        TransitionAttention(vit(), start=3).patch_map(images(), target=0)


@pytest.mark.parametrize(("depth", "start"), [(3, 2), (6, 4)])
def test_the_default_start_is_the_authors_or_the_last_block(depth: int, start: int) -> None:
    model, x = vit(depth=depth), images()
    found = TransitionAttention(model, steps=2).patch_map(x, target=0)
    expected = TransitionAttention(model, steps=2, start=start).patch_map(x, target=0)
    assert torch.equal(found, expected)


def test_defaults_and_declarations() -> None:
    explainer = TransitionAttention(vit(depth=5))
    assert (explainer.steps, explainer.start) == (20, None)
    passed: list[int] = []
    explainer.model.register_forward_hook(lambda module, given, output: passed.append(len(given[0])))
    explainer.patch_map(images(1), target=CLASSES - 1)
    assert sum(passed) - 1 == explainer.forwards == explainer.backwards == 20
    assert explainer.class_specific
    assert explainer.more_is_relevant


def test_a_path_that_overflows_is_told_so() -> None:
    explainer = TransitionAttention(vit(), steps=2, start=0)
    with pytest.raises(ValueError, match="not finite on the path"):
        explainer.patch_map(images(), target=lambda output: output[:, 0] * 1e308 * 1e10)
