"""Test that the probe runs once, works with every caller and wrapper, and notices changes of the model."""

import gc
import warnings
import weakref
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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


def test_values_and_kinds_of_arguments_are_told_apart() -> None:
    class Turns(Outer):
        def forward(self, x: Tensor, turns: Any = False, *_: Any) -> Tensor:
            return self.vit(x.flip(-1) if turns is True or isinstance(turns, Tensor) else x)

    model = Turns(vit())
    assert vi.probe(model, images()).layout.order is None
    assert vi.probe(model, images(), False).layout.order is None
    mirrored = vi.probe(model, images(), True).layout.order
    assert mirrored is not None
    assert mirrored[:5] == (0, 4, 3, 2, 1)
    assert vi.probe(model, images(), (torch.ones(2, 1),)).layout.order == mirrored


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
    """Return changes of a model after which the probe must run again, by name."""
    return {
        "a module": lambda model: setattr(model, "head", nn.Linear(32, 5).double()),
        "an attribute": lambda model: setattr(model, "global_pool", "avg"),
        "an entry of a dictionary": lambda model: model.settings.update(pool="avg"),
        "a number of the same hash": lambda model: setattr(model, "first", -2),
        "a hook": lambda model: model.blocks[1].register_forward_hook(lambda _, args, out: out.flip(1)),
    }


class Configured(Outer):
    """A ViT that is read as its settings say."""

    def __init__(self) -> None:
        """Take the class token."""
        super().__init__(vit())
        self.settings, self.first = {"pool": "token"}, -1

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        tokens = self.vit.forward_features(x)
        pooled = tokens[:, 0] if self.settings["pool"] == "token" and self.first == -1 else tokens[:, 1:].mean(1)
        return self.vit.head(pooled)


@pytest.mark.parametrize("name", changes())
def test_a_changed_model_is_probed_anew(name: str) -> None:
    model = Configured() if name.startswith(("an entry", "a number")) else vit()
    before = vi.probe(model, images())
    changes()[name](model)
    if name == "a hook":
        with pytest.raises(UnsupportedModelError, match="exchange information"):
            vi.probe(model, images())
        return
    after = vi.probe(model, images())
    assert after is not before
    assert after.layout.readout == ("token" if name == "a module" else "avg")


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


@pytest.mark.parametrize(
    "name", ["generic_attention", "legrad", "attn_lrp", "transformer_attribution", "attention_rollout"]
)
def test_a_model_made_in_inference_mode_is_explained_like_any_other(name: str) -> None:
    method = vi.EXPLAINERS[name]
    with torch.inference_mode():
        model, given = vit(), images()
        inside = method(model).patch_map(given, 1)
    wanted = method(vit()).patch_map(images(), 1)
    for found in (inside, method(model).patch_map(given, 1)):
        torch.testing.assert_close(found, wanted)
    assert all(parameter.is_inference() for parameter in model.parameters())


@dataclass
class Answer:
    """An output with a name of its own."""

    scores: Tensor


class Slotted:
    """An output without a dictionary of its own."""

    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        """Take the logits."""
        self.logits = logits


Named = namedtuple("Named", ["aux", "logits"])
OUTPUTS: dict[str, Any] = {
    "named tuple": lambda x: Named(torch.zeros(1), x),
    "slots": Slotted,
    "dictionary": lambda x: {"n": 1, "a": [x]},
    "tuple": lambda x: (None, x, x),
    "object": Answer,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_may_be_objects(name: str) -> None:
    assert str(vi.probe(Outer(vit(), after=OUTPUTS[name]), (SIDE, SIDE))) == EXPECTED


class Forwards(Outer):
    """A wrapper that forwards attributes to the ViT."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("vit"), name)


def lightning(model: nn.Module) -> nn.Module:
    """Wrap the model in a Lightning module."""
    module = pytest.importorskip("lightning").LightningModule()
    module.vit = model
    module.forward = model.forward
    return module


def lora(model: nn.Module) -> nn.Module:
    """Add peft adapters to the model."""
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["qkv"]))


def compiled_block(model: Any) -> nn.Module:
    """Compile one block of the model."""
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


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """Join a process group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("inside", [False, True])
def test_distributed_models_are_looked_through_and_train_on(inside: bool) -> None:
    parallel = nn.parallel.DistributedDataParallel(vit().train())
    model = Outer(parallel) if inside else parallel
    loss = parallel(images()).square().sum()
    assert str(vi.probe(model, (SIDE, SIDE))) == EXPECTED
    for name in ("attention_rollout", "generic_attention", "legrad"):
        found = vi.EXPLAINERS[name](model).patch_map(images(), 1)
        torch.testing.assert_close(found, vi.EXPLAINERS[name](vit()).patch_map(images(), 1))
    loss.backward()
    alone = vit().train()
    alone(images()).square().sum().backward()
    for found, wanted in zip(parallel.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


def test_a_model_may_take_one_number_of_images_only() -> None:
    class OnlyTwo(Outer):
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            return self.vit(x.view(2, 3, SIDE, SIDE))

    assert str(vi.probe(OnlyTwo(vit()), images(2))) == EXPECTED
    with pytest.raises(ValueError, match="must be images that OnlyTwo takes"):
        vi.probe(OnlyTwo(vit()), images(3))


def stated(**other: Any) -> TokenLayout:
    """Return the layout of `vit`, with the given changes."""
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
    for wrong in ({"readout": "avg"}, {"order": (0, *range(16, 0, -1))}):  # after a probe that was remembered
        vi.state_layout(model, stated(**wrong))
        with pytest.raises(ValueError, match="`layout`, stated for VisionTransformer, must be "):
            vi.AttentionRollout(model).patch_map(images())


def test_a_statement_helps_where_nothing_is_observed_or_declared() -> None:
    class Undeclared(Outer):
        @torch.no_grad()
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            return super().forward(x)

    model = Undeclared(vit())
    model.vit.num_prefix_tokens = None
    with pytest.raises(UnsupportedModelError, match=r"state them with `vi.state_layout\(model, layout\)`"):
        vi.AttentionRollout(model).patch_map(images())
    vi.state_layout(model, stated())
    with pytest.warns(vi.UnprobedModelWarning, match="taken to be as stated: 4 x 4 patches"):
        found = vi.AttentionRollout(model).patch_map(images())
    torch.testing.assert_close(found, vi.AttentionRollout(vit()).patch_map(images()))


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
