"""TAM, both variants of BI, and LeGrad: the laws of the score, families, precision, and borrowing."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.families import FAMILIES, Family, tiny
from vit_interactions.attention.module_inputs import module_inputs
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.beyond_intuition import BeyondIntuition
from vit_interactions.explain.legrad import LeGrad
from vit_interactions.explain.transition_attention import TransitionAttention

Make = Callable[[nn.Module], Explainer]
METHODS: dict[str, Make] = {
    "tam": lambda model: TransitionAttention(model, steps=3, start=0),
    "bi head": lambda model: BeyondIntuition(model, steps=3, start=1),
    "bi token": lambda model: BeyondIntuition(model, variant="token", steps=3, start=1),
    "legrad": LeGrad,
    "legrad model": lambda model: LeGrad(model, pool="model", layers="all"),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
NOT_TOKEN_WISE = ("parallel_scaling",)


def vit(**options: Any) -> nn.Module:
    """Two blocks of two heads, 3 x 3 patches."""
    return tiny("vit_tiny_patch16_224", **{"img_size": 48, **options})


def images(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare with the largest value as the measure."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def differs(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max() > 1e-2 * expected.abs().max())


# --- laws of the score ---


@every_method
def test_proportional_to_the_score_whatever_its_offset(make: Make) -> None:
    model, x = vit().double(), images().double()
    plain = make(model).patch_map(x, target=1)
    assert plain.min() >= 0
    with torch.no_grad():
        model.head.weight *= 3
        model.head.bias *= 3
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.bias += 10
    assert_near(make(model).patch_map(x, target=1), 3 * plain, 1e-9)
    with torch.no_grad():
        model.head.weight *= -1 / 3
    assert differs(make(model).patch_map(x, target=1), plain)


@every_method
def test_classes_and_heads_weights_matter(make: Make) -> None:
    model, x = vit(), images()
    assert differs(make(model).patch_map(x, target=1), make(model).patch_map(x, target=2))
    before = make(model).patch_map(x, target=1)
    nn.init.normal_(model.head.weight)
    assert differs(make(model).patch_map(x, target=1), before)


# --- families, batches, precision ---


@every_method
def test_families_alone_and_in_a_batch(make: Make, family: Family) -> None:
    if make is METHODS["bi token"] and family.name in NOT_TOKEN_WISE:
        pytest.skip("refused by name; tested with the method")
    model, x = family.build(), family.images(3)
    explainer = make(model)
    together = explainer.patch_map(x, target=[0, 1, 4])
    assert together.shape == (3, *family.grid)
    assert together.flatten(1).std(1).min() > 0
    alone = torch.cat([explainer.patch_map(x[b : b + 1], target=target) for b, target in enumerate([0, 1, 4])])
    assert_near(alone, together)
    assert torch.equal(explainer.patch_map(x, target=[0, 1, 4]), together)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    assert_near(explainer.patch_map(x, target=[0, 1, 4]), together)


@every_method
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_models(make: Make, dtype: torch.dtype, tolerance: float) -> None:
    for name in ("vit", "dinov3", "siglip"):
        family = FAMILIES[name]
        expected = make(family.build()).patch_map(family.images(), target=1)
        result = make(family.build().to(dtype)).patch_map(family.images().to(dtype), target=1)
        assert result.dtype == torch.float32
        assert_near(result, expected, tolerance)
        with torch.autocast("cpu", dtype):
            result = make(family.build()).patch_map(family.images(), target=1)
        assert result.dtype == torch.float32
        assert_near(result, expected, tolerance)


# --- borrowing ---


def state_of(model: nn.Module) -> list[Any]:
    """What an explainer must leave alone."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks")
    return [
        [module.training for module in model.modules()],
        [getattr(m, flag, None) for m in model.modules() for flag in ("fused_attn", "grad_checkpointing")],
        [dict(getattr(module, name)) for module in model.modules() for name in hooks],
        [sorted(vars(module)) for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter._version for parameter in model.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        torch.get_rng_state().tolist(),
    ]


@pytest.fixture
def lived_in() -> nn.Module:
    """A model in mixed modes, with dropout, some gradients, some frozen parameters and a user's hook."""
    model = vit(drop_rate=0.1, attn_drop_rate=0.2, proj_drop_rate=0.1, drop_path_rate=0.1).train()
    model(images()).sum().backward()
    model.blocks[1].eval()
    model.blocks[0].attn.fused_attn = False
    model.blocks[0].requires_grad_(False)
    model.set_grad_checkpointing(True)
    model.blocks[1].register_forward_hook(lambda *_: None)
    return model


@every_method
def test_the_model_is_given_back_as_it_was(make: Make, lived_in: nn.Module) -> None:
    x = images().requires_grad_()
    before = state_of(lived_in)
    result = make(lived_in).patch_map(x, target=1)
    assert state_of(lived_in) == before
    assert x.grad is None
    assert not result.requires_grad
    assert_near(result, make(copy.deepcopy(lived_in).eval()).patch_map(images(), target=1))


def _moments(model: nn.Module) -> Iterator[tuple[str, int]]:
    for part in ("patch_embed", "blocks.1.norm1", "blocks.1.attn.proj", "norm", "head"):
        for times in (1, 2):
            yield part, times


@every_method
def test_it_is_given_back_after_an_exception_in_any_pass(make: Make, lived_in: nn.Module) -> None:
    for part, times in _moments(lived_in):
        left = [times]

        def fail(*_: Any, left: list[int] = left, part: str = part) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt(part)

        handle = lived_in.get_submodule(part).register_forward_hook(fail)
        before = state_of(lived_in)
        explainer = make(lived_in)
        with pytest.raises(KeyboardInterrupt, match=part):
            explainer.patch_map(images(), target=1)
        assert state_of(lived_in) == before
        handle.remove()


@every_method
def test_frozen_parameters_and_gradient_modes_make_no_difference(make: Make) -> None:
    model, x = vit(), images()
    expected = make(model).patch_map(x, target=1)
    with torch.no_grad():
        assert torch.equal(make(model).patch_map(x, target=1), expected)
    with torch.inference_mode():
        made_in_inference = x.clone()
        assert torch.equal(make(model).patch_map(made_in_inference, target=1), expected)
    assert torch.equal(make(model).patch_map(made_in_inference, target=1), expected)
    model.requires_grad_(False)
    assert torch.equal(make(model).patch_map(x, target=1), expected)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert torch.equal(make(wrapped).patch_map(x, target=1), expected)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    assert torch.equal(make(model).patch_map(x, target=1), expected)


@every_method
def test_siglip_in_gradient_modes(make: Make) -> None:
    family = FAMILIES["siglip"]
    model, x = family.build().requires_grad_(False), family.images()
    expected = make(model).patch_map(x, target=1)
    with torch.inference_mode():
        assert torch.equal(make(model).patch_map(x, target=1), expected)


@every_method
def test_a_target_is_needed(make: Make) -> None:
    with pytest.raises(ValueError, match="explains one score of the output"):
        make(vit()).patch_map(images())
    with pytest.raises(IndexError, match="for 5 classes, but got 5"):
        make(vit()).patch_map(images(), target=5)


def test_module_inputs_notes_what_hooks_make_of_the_input_and_leaves_none_behind() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Identity())
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.append(nn.Linear(2, 2))  # does not take one number
    with pytest.raises(RuntimeError), module_inputs(model) as seen:
        model(torch.tensor([-1.0]))
    assert [call.args[0].item() for call in (*seen[model[0]], *seen[model[1]])] == [-1.0, 1.0]
    assert [len(module._forward_pre_hooks) for module in model] == [0, 1, 0]
