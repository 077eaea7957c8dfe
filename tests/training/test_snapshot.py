"""The maps and the E_O of one image, by a model in any state."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.explain.settings import Settings
from vit_interactions.training.snapshot import take_snapshot

SIZE, PATCHES = 64, 16
METHODS = ("attention_rollout", "generic_attention", "responsive_field_size", "random_map")


def make_model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_vit", img_size=SIZE, num_classes=5, **options)
    for block in model.blocks:
        block.attn.qkv.weight.data *= 4  # otherwise all patches have nearly the same attention
    return model


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_operations_count_the_patches_of_all_fields(image: Tensor) -> None:
    model, alpha, beta = make_model().eval(), 0.10, 0.20
    found = take_snapshot(model, image, Settings("", methods=(), alpha=alpha, beta=beta))
    u = vi.InteractionUncertainty(model).uncertainty(image)[0].double().numpy()
    # Sec. 4.1: the T = round(alpha N^2) largest values of U are relevant.
    ranked = sorted(np.ndindex(u.shape), key=lambda pair: -u[pair])[: round(alpha * PATCHES**2)]
    # Sec. 4.2: the beta N patches whose columns of U vary least are indiscriminative.
    dropped = set(np.argsort(u.var(0))[: round(beta * PATCHES)])
    count = 0
    for patch in range(PATCHES):
        members = [other for own, other in ranked if own == patch] + [patch]
        xs, ys = [m % 4 for m in members], [m // 4 for m in members]
        box = {
            4 * y + x for y in range(min(ys), max(ys) + 1) for x in range(min(xs), max(xs) + 1)
        }  # Eqs. 4 and 5, the window
        count += len((box - dropped) | {patch})  # Eq. 6
    assert found.operations == count
    assert PATCHES < count < PATCHES**2
    assert take_snapshot(model, image, Settings("", methods=(), alpha=0.0)).operations == PATCHES
    assert take_snapshot(model, image, Settings("", methods=(), alpha=1.0, beta=0.0)).operations == PATCHES**2


def test_maps_are_those_of_the_model_in_evaluation_mode(image: Tensor) -> None:
    settings = Settings("", methods=METHODS, alpha=0.05)
    model = make_model(drop_rate=0.3, drop_path_rate=0.3).train()
    found = take_snapshot(model, image, settings)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        again = take_snapshot(model, image, settings)
    assert list(found.maps) == list(METHODS)
    assert not found.failed
    model.eval()
    for method in settings.methods[:3]:
        explainer = method.create(model)
        expected = explainer.patch_map(image, "pred" if explainer.class_specific else None)[0]
        torch.testing.assert_close(found.maps[method.name], expected)
    assert all(torch.equal(again.maps[name], found.maps[name]) for name in METHODS)
    assert again.operations == found.operations


def plant_sink(model: nn.Module, patch: int, first: int = 0) -> None:
    """Let all patches attend to one of them, from a block on."""
    # All queries agree with one direction, which only the key of the patch has.
    for block in model.blocks[first:]:
        width = block.attn.qkv.out_features // 3
        block.attn.qkv.bias.data[:width] = 30.0
        block.attn.qkv.weight.data[: 2 * width] = 0.0
        block.attn.qkv.weight.data[width : 2 * width, 0] = 30.0
    model.pos_embed.data[0, 1 + patch, 0] = 1000.0


def test_planted_sink_is_marked(image: Tensor) -> None:
    model = make_model().eval()
    plant_sink(model, 6)
    found = take_snapshot(model, image, Settings("", methods=()))
    assert found.sinks is not None
    assert found.sinks.nonzero().tolist() == [[6]]


def test_options_of_the_windows_apply_to_numbers_and_maps(image: Tensor) -> None:
    model = make_model().eval()
    plant_sink(model, 0, first=1)
    plain = take_snapshot(model, image, Settings("", methods=("responsive_field_size",), alpha=0.05, beta=0.0))
    # The sink's column holds the largest values of U, so the windows of other patches reach to the corner.
    for options in ({"exclude_sinks": True}, {"coverage": 0.0}):
        settings = Settings("", methods=("responsive_field_size",), alpha=0.05, beta=0.0, **options)  # type: ignore[arg-type]
        found = take_snapshot(model, image, settings)
        assert found.operations is not None
        assert found.operations != plain.operations
        assert found.operations == found.maps["responsive_field_size"].sum()


def test_models_in_half_precision_and_compiled_models_are_explained(image: Tensor) -> None:
    model, settings = make_model().train(), Settings("", methods=("raw_attention",))
    expected = take_snapshot(model, image, settings)
    compiled = take_snapshot(torch.compile(model, backend="eager"), image, settings)
    assert torch.equal(compiled.maps["raw_attention"], expected.maps["raw_attention"])
    half = take_snapshot(model.bfloat16(), image, settings)
    torch.testing.assert_close(
        half.maps["raw_attention"], expected.maps["raw_attention"], rtol=0.1, atol=0.01, check_dtype=True
    )


def generator_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]


class Drawing(vi.RandomMap):
    """A custom method that draws from every global generator."""

    def _explain(self, *arguments: Any) -> Any:
        random.random(), np.random.rand(), torch.rand(1)
        return super()._explain(*arguments)


def test_state_of_the_training_is_unchanged(image: Tensor) -> None:
    model = make_model(drop_rate=0.3, attn_drop_rate=0.3).train()
    model.head.eval()  # a frozen part
    loss = model(image).sum()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, states = [module.training for module in model.modules()], generator_states()
    methods = {"drawing": Drawing, "legrad": "legrad", "gradient": "gradient_rollout", "saliency": "saliency"}
    found = take_snapshot(model, image, Settings("", methods=methods))
    assert len(found.maps) == len(methods)
    assert generator_states() == states
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    loss.backward()  # the graph from before is still valid


def failing(error: Exception) -> Callable[[nn.Module], vi.Explainer]:
    class Failing(vi.RandomMap):
        def _explain(self, *arguments: Any) -> Any:
            raise error

    return Failing


def test_failures_are_collected(image: Tensor) -> None:
    methods = {"broken": failing(TypeError("odd")), "plain": "raw_attention"}
    found = take_snapshot(make_model(), image, Settings("", methods=methods))
    assert found.failed == {"broken": "odd"}
    assert list(found.maps) == ["plain"]
    convolutions = timm.create_model("test_resnet", num_classes=5)
    chosen = Settings("", methods=("saliency", "responsive_field_size", "attention_rollout"))
    found = take_snapshot(convolutions, torch.rand(1, 3, 160, 160), chosen)
    assert list(found.maps) == ["saliency"]
    assert list(found.failed) == ["E_O", "responsive_field_size", "attention_rollout"]
    assert found.operations is None


def test_infinite_weights_raise(image: Tensor) -> None:
    model = make_model()
    model.blocks[0].attn.qkv.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        take_snapshot(model, image, Settings("", methods=("attention_rollout",)))
