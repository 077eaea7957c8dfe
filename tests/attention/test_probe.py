"""The probe runs once, survives every kind of caller and wrapper, and notices what changes."""

import gc
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.twins import SIDE, Outer, images, vit
from vit_interactions import TokenLayout, UnsupportedModelError

EXPECTED = "4 x 4 patches of 16 x 16 px, 1 prefix token, read from: class token, 3 layers in series"


def passes_of(model: nn.Module) -> list[int]:
    """Count forward passes."""
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_it_prints_what_it_saw() -> None:
    assert str(vi.probe(vit(), (SIDE, SIDE))) == EXPECTED


def test_it_is_computed_once_for_each_size_and_structure_of_arguments() -> None:
    model = Outer(vit(dynamic_img_size=True), before=None)
    passes = passes_of(model)
    first = vi.probe(model, images())
    assert len(passes) == 1
    assert vi.probe(model, images(1)) is vi.probe(model, (SIDE, SIDE)) is first
    vi.AttentionRollout(model).patch_map(images())
    assert len(passes) == 2
    assert vi.probe(model, (SIDE, 2 * SIDE)).layout.grid == (4, 8)
    assert len(passes) == 3


def test_a_refusal_is_remembered_too() -> None:
    model = Outer(vit(), after=torch.detach)
    with pytest.warns(vi.UnprobedModelWarning, match=r"Outer cannot be observed.*declared: 4 x 4 patches"):
        vi.probe(model, images())
    passes = passes_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vi.probe(model, images())
    assert len(passes) <= 1  # the hook itself is a change


def changes() -> dict[str, Any]:
    """What makes a model another one."""
    return {
        "a module": lambda model: setattr(model, "head", nn.Linear(32, 5).double()),
        "an attribute": lambda model: setattr(model, "global_pool", "avg"),
        "a hook": lambda model: model.blocks[1].register_forward_hook(lambda _, args, out: out.flip(1)),
    }


@pytest.mark.parametrize("name", changes())
def test_a_changed_model_is_probed_anew(name: str) -> None:
    model = vit()
    before = vi.probe(model, images())
    changes()[name](model)
    if name == "a hook":
        with pytest.raises(UnsupportedModelError, match="exchange information"):
            vi.probe(model, images())
        return
    after = vi.probe(model, images())
    assert after is not before
    assert after.layout.readout == ("avg" if name == "an attribute" else "token")


def test_it_keeps_no_model_alive() -> None:
    model = vit()
    vi.probe(model, images())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_caller_may_ask(context: Any) -> None:
    with context():
        assert str(vi.probe(vit(), (SIDE, SIDE))) == EXPECTED
        assert vi.AttentionRollout(vit()).patch_map(images()).isfinite().all()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "frozen", "inference", "training"])
def test_any_state_of_a_model_will_do(kind: str) -> None:
    with torch.inference_mode(kind == "inference"):
        model = vit()
    if "float" in kind:
        model = model.to(getattr(torch, kind))
    if kind == "frozen":
        model.requires_grad_(False)
    model.train(kind == "training")
    assert str(vi.probe(model, (SIDE, SIDE))) == EXPECTED
    assert model.training is (kind == "training")
    assert all(parameter.grad is None for parameter in model.parameters())


@dataclass
class Answer:
    """An output with a name of its own."""

    scores: Tensor


OUTPUTS: dict[str, Any] = {
    "dictionary": lambda x: {"n": 1, "a": [x]},
    "tuple": lambda x: (None, x, x),
    "object": Answer,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_may_be_objects(name: str) -> None:
    assert str(vi.probe(Outer(vit(), after=OUTPUTS[name]), (SIDE, SIDE))) == EXPECTED


class Forwards(Outer):
    """Hands attributes of the ViT on."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("vit"), name)


def lightning(model: nn.Module) -> nn.Module:
    """A module of Lightning around the model."""
    module = pytest.importorskip("lightning").LightningModule()
    module.vit = model
    module.forward = model.forward
    return module


def lora(model: nn.Module) -> nn.Module:
    """The model with adapters of peft."""
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["qkv"]))


def compiled_block(model: Any) -> nn.Module:
    """The model with one block compiled."""
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    return model


WRAPPERS: dict[str, Any] = {
    "forwards attributes": Forwards,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled inside": lambda model: Outer(torch.compile(model, backend="eager")),
    "compiled block": compiled_block,
    "DataParallel": nn.DataParallel,
    "peft": lora,
    "lightning": lightning,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_looked_through(name: str) -> None:
    model = WRAPPERS[name](vit()).eval()
    assert str(vi.probe(model, (SIDE, SIDE))) == EXPECTED
    expected = vi.AttentionRollout(vit()).patch_map(images())
    torch.testing.assert_close(vi.AttentionRollout(model).patch_map(images()), expected)


def test_a_model_may_take_one_number_of_images_only() -> None:
    class OnlyTwo(Outer):
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            return self.vit(x.view(2, 3, SIDE, SIDE))

    assert str(vi.probe(OnlyTwo(vit()), images(2))) == EXPECTED
    with pytest.raises(ValueError, match="must be images that OnlyTwo takes"):
        vi.probe(OnlyTwo(vit()), images(3))


def stated(**other: Any) -> TokenLayout:
    """What `vit` does, or something else."""
    return TokenLayout(**{"prefix": 1, "rows": 4, "cols": 4, "readout": "token", "extent": (SIDE, SIDE), **other})


def test_a_statement_takes_the_place_of_a_declaration() -> None:
    model = Outer(nn.Sequential(vit()), after=torch.detach)
    vi.state_layout(model, stated(readout="avg"))
    with pytest.warns(vi.UnprobedModelWarning, match="read from: mean of the patches"):
        assert vi.probe(model, images()).layout == stated(readout="avg")


def test_a_statement_that_contradicts_what_is_seen_is_an_error() -> None:
    model = vit()
    vi.state_layout(model, stated(rows=2, cols=8))
    with pytest.raises(ValueError, match=r"`layout`, stated for VisionTransformer, must be .*4 x 4.*got 2 x 8"):
        vi.probe(model, images())
    vi.state_layout(model, stated())
    assert vi.probe(model, images()).layout == stated()


@pytest.mark.filterwarnings("ignore::vit_interactions.UnprobedModelWarning")
def test_a_backbone_without_gradients_is_explained_by_attention_only() -> None:
    class Frozen(Outer):
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            with torch.no_grad():
                return self.vit(x)

    model = Frozen(vit())
    expected = vi.AttentionRollout(vit()).patch_map(images())
    torch.testing.assert_close(vi.AttentionRollout(model).patch_map(images()), expected)
    for name in ("generic_attention", "gmar", "legrad", "attn_lrp", "attention_grad_cam"):
        with pytest.raises(UnsupportedModelError):
            vi.EXPLAINERS[name](model).patch_map(images(), 1)


def test_what_is_neither_images_nor_a_size_is_refused() -> None:
    for wrong in ((64,), (0, 64), (64.0, 64)):
        with pytest.raises(ValueError, match="`inputs_or_size` must be "):
            vi.probe(vit(), wrong)
    with pytest.raises(TypeError, match="`inputs` must be a tensor, got int"):
        vi.probe(vit(), 64)
