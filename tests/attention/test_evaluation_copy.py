"""Test that explaining a model does not change it, even for other threads that run it meanwhile."""

import contextlib
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.threaded import TARGET, differences, explain, images, lived_in, together
from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.random_draws import ALWAYS, DRAWS_IF, PrivateGenerators
from vit_interactions.attention.readable import readable

SLOW = {"transition_attention", "beyond_intuition", "dynamic_accumulated_attention"}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("method", vi.EXPLAINERS)
def test_plain_calls_and_explanations_side_by_side_are_what_they_are_alone(method: str, training: bool) -> None:
    made, wrong_outputs, wrong_maps = differences(method, lived_in(training=training), explanations=2, calls=6)
    assert made >= 6
    assert (wrong_outputs, wrong_maps) == (0, 0)


def test_the_comparison_above_can_fail() -> None:
    model = lived_in(training=True)
    with torch.no_grad():
        training, evaluation = model(images()), evaluated(model)(images())
    assert not torch.allclose(training, evaluation, rtol=0.1)


@pytest.mark.parametrize("method", sorted(set(vi.EXPLAINERS) - SLOW))
def test_two_threads_explain_one_model_as_one_does(method: str) -> None:
    model, inputs = lived_in(training=True), images(2)
    expected = explain(method, model, inputs)
    for result in together(*[lambda: explain(method, model, inputs)] * 2):
        assert torch.equal(result, expected)
    assert all(module.training for module in model.modules())


def test_a_part_of_a_model_is_explained_beside_the_whole() -> None:
    vit = lived_in(training=True)
    whole = nn.Sequential(vit).train()
    expected = explain("legrad", vit, images())
    part, all_of_it = together(
        lambda: explain("legrad", vit, images()), lambda: explain("legrad", whole, images())
    )
    assert torch.equal(part, expected)
    assert torch.equal(all_of_it, expected)


def test_what_fails_in_one_thread_leaves_the_other_right() -> None:
    model, inputs = lived_in(training=True), images()
    expected = explain("legrad", model, inputs)
    failed, right = together(
        lambda: [vi.LeGrad(model).patch_map(inputs, target=99)],
        lambda: [explain("legrad", model, inputs) for _ in range(3)],
    )
    assert isinstance(failed, IndexError)
    assert all(torch.equal(one, expected) for one in right)
    assert all(module.training for module in model.modules())


# --- the model is the very same ---


class Merging(nn.Linear):
    """A layer as LoRA's first implementation has it: entering evaluation mode writes to the weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(2, sizes[0], generator=generator) * 0.3)
        self.b = nn.Parameter(torch.randn(sizes[1], 2, generator=generator) * 0.3)
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.b @ self.a) * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        plain = super().forward(x)
        return plain if self.merged else plain + x @ self.a.T @ self.b.T


def with_lora() -> Any:
    """Build a ViT in training mode, with layers that merge weights, and with gradients."""
    model = lived_in(training=True)
    for block in model.blocks:
        old = block.attn.proj
        block.attn.proj = Merging(old.in_features, old.out_features).train()
    model(images()).sum().backward()
    return model


@pytest.mark.parametrize("method", ["attention_rollout", "legrad", "attn_lrp"])
def test_layers_that_merge_weights_keep_the_same_parameters_and_gradients(method: str) -> None:
    model = with_lora()
    objects = [(parameter, parameter.grad) for parameter in model.parameters()]
    values = [(parameter.clone(), parameter.grad.clone(), parameter._version) for parameter in model.parameters()]
    found = explain(method, model, images())
    for parameter, (same, grad), (value, grad_value, version) in zip(
        model.parameters(), objects, values, strict=True
    ):
        assert parameter is same
        assert parameter.grad is grad
        assert parameter._version == version
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, grad_value)
    assert not any(block.attn.proj.merged for block in model.blocks)
    # The explained model equals the model after its own `eval`.
    assert torch.equal(explain(method, model.eval(), images()), found)


def test_layers_of_peft_are_left_alone() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["qkv"], r=2, use_dora=True, lora_dropout=0.1)
    model = peft.get_peft_model(lived_in(training=True), config).train()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    found = explain("generic_attention", model, images())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
    caches = [module._dora_cache for module in model.modules() if hasattr(module, "_dora_cache")]
    assert caches
    assert not any(caches)
    assert all(module.training for module in model.modules())
    assert torch.equal(explain("generic_attention", model.eval(), images()), found)


def test_a_model_whose_weights_are_copied_is_explained_under_inference_mode() -> None:
    model = with_lora()
    expected = explain("attn_lrp", model, images())
    with torch.inference_mode():
        assert torch.equal(explain("attn_lrp", model, images()), expected)


def test_wrappers_inside_a_model_are_run_through() -> None:
    vit = lived_in(training=True)
    expected = explain("legrad", vit, images())
    vit.blocks[1] = nn.DataParallel(vit.blocks[1])
    assert torch.equal(explain("legrad", vit.train(), images()), expected)


def test_tied_modules_stay_tied_and_parameters_are_shared() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Dropout(), shared).train()
    copied: Any = evaluated(model)
    assert copied[0] is copied[2] is not shared
    assert copied[0].weight is shared.weight
    assert [name for name, _ in copied.named_modules()] == [name for name, _ in model.named_modules()]


def test_parametrized_weights_and_running_statistics_are_used_as_they_are() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(layer, nn.BatchNorm1d(3), nn.Dropout()).train()
    for _ in range(3):
        model(torch.randn(8, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = torch.randn(4, 3)
    with evaluation_mode(model) as own:
        found = own(inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(found, model.eval()(inputs))


# --- references to modules from elsewhere ---


class Holder:
    """An object of the user's that knows a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


class Sealed:
    """One that cannot be copied."""

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def by_closure(model: Any) -> Any:
    """Return a function that holds the model in its closure."""
    return lambda x: model.drop(x)


REFERENCES = {
    "list": lambda model: [model.drop],
    "tuple in a dict": lambda model: {"parts": (model.drop,)},
    "closure": by_closure,
    "bound method": lambda model: model.drop.forward,
    "helper": lambda model: Holder(model.drop),
    "parent": lambda model: [model],
}


class Referring(nn.Module):
    """A module that runs its dropout by a reference from outside its tree."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.kind = kind
        self.__dict__["kept"] = REFERENCES[kind](self)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept
        run = {
            "list": lambda: kept[0],
            "tuple in a dict": lambda: kept["parts"][0],
            "closure": lambda: kept,
            "bound method": lambda: kept,
            "helper": lambda: kept.module,
            "parent": lambda: kept[0].drop,
        }[self.kind]()
        result: Tensor = run(x)
        return result


@pytest.mark.parametrize("kind", REFERENCES)
def test_references_lead_to_the_copy(kind: str) -> None:
    model, x = Referring(kind).train(), torch.ones(100)
    with evaluation_mode(model) as own:
        assert torch.equal(own(x), x)
    assert not torch.equal(model(x), x)


def test_a_replaced_forward_and_a_hook_run_the_copy() -> None:
    model = nn.Sequential(nn.Dropout(0.5)).train()
    plain = model.forward
    seen: list[Any] = []
    model.forward = lambda x: plain(x) + 1  # type: ignore[method-assign]
    model[0].register_forward_hook(lambda module, args, output: seen.append(module.training))
    with evaluation_mode(model) as own:
        assert torch.equal(own(torch.ones(100)), torch.full((100,), 2.0))
    assert seen == [False]


def test_a_reference_that_cannot_be_copied_is_refused() -> None:
    model = lived_in(training=True)
    model.sealed = Sealed(model.norm)
    with pytest.raises(vi.UnsupportedModelError, match=r"referenced by a .*Sealed, .* `model.eval\(\)`"):
        explain("raw_attention", model, images())
    assert all(module.training for module in model.modules())


ELSEWHERE: list[nn.Module] = []


class Global(nn.Module):
    """A module that runs another one from a global variable."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = ELSEWHERE[0](x)
        return result


def test_a_module_that_is_reached_unseen_is_refused_and_not_run_in_the_wrong_mode() -> None:
    model = lived_in(training=True)
    ELSEWHERE[:] = [model.norm]
    model.fc_norm = Global()
    with pytest.raises(vi.UnsupportedModelError, match="ran instead of its copy"):
        explain("raw_attention", model, images())


# --- what belongs to the process ---


class Drawing(nn.Module):
    """Adds noise in every mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x) + torch.rand_like(x) * 0.1


def test_a_model_that_draws_moves_no_generator_and_draws_what_it_would() -> None:
    model = Drawing().eval()
    torch.manual_seed(4)
    expected = model(torch.zeros(5))
    torch.manual_seed(4)
    with evaluation_mode(model) as own:
        assert torch.equal(own(torch.zeros(5)), expected)
    after = torch.rand(3)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(3), after)


def test_draws_of_another_thread_go_on_beside_explanations() -> None:
    model = lived_in(training=True)
    torch.manual_seed(5)
    expected = torch.stack([torch.rand(1) for _ in range(300)])
    torch.manual_seed(5)
    drawn, _ = together(
        lambda: torch.stack([torch.rand(1) for _ in range(300)]),
        lambda: [explain("generic_attention", model, images()) for _ in range(3)],
    )
    assert torch.equal(drawn, expected)


def test_private_draws_of_two_threads_leave_the_global_generator_where_it_is() -> None:
    torch.manual_seed(0)
    state, first_ended = torch.get_rng_state(), threading.Event()
    private = PrivateGenerators()
    private.run(lambda: torch.rand(3))  # from here on it is elsewhere than the global one

    def draw_late() -> None:
        PrivateGenerators().run(lambda: first_ended.wait(5))

    late = threading.Thread(target=draw_late)

    def draw() -> None:
        late.start()
        late.join(0.1)  # time to begin in

    private.run(draw)
    first_ended.set()
    late.join()
    assert torch.equal(torch.get_rng_state(), state)


def test_every_function_of_torch_that_draws_is_known() -> None:
    drawing = set()
    for schema in torch._C._jit_get_all_schemas():
        space, name = schema.name.split("::")
        if space == "aten" and not name.startswith("_"):
            with contextlib.suppress(AttributeError):
                op = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
                drawing |= {name} if torch.Tag.nondeterministic_seeded in op.tags else set()
    known = ALWAYS | set(DRAWS_IF)
    recurrent = {"gru", "lstm", "rnn_relu", "rnn_tanh", "miopen_rnn"}  # no ViT has such layers
    missing = {
        name
        for name in drawing - recurrent
        for owner in (torch, Tensor, nn.functional)
        if callable(function := getattr(owner, name, None)) and function not in known
    }
    assert len(drawing) > 30
    assert missing == set()


def test_flags_are_restored_by_the_last_of_several_recordings() -> None:
    model = lived_in(training=False)
    inside, leave = threading.Event(), threading.Event()

    def longer() -> bool:
        with readable(model):
            inside.set()
            leave.wait(10)
            return bool(model.blocks[0].attn.fused_attn)

    def shorter() -> bool:
        inside.wait(10)
        with readable(model):
            pass
        still = bool(model.blocks[0].attn.fused_attn)
        leave.set()
        return still

    assert together(longer, shorter) == [True, True]
    assert not model.blocks[0].attn.fused_attn
    assert model.grad_checkpointing


def test_compiled_parts_run_eagerly_in_the_explanation_only() -> None:
    model = lived_in(training=True)
    expected = explain("raw_attention", model, images())
    runs: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        runs.append("compiled")
        return graph.forward

    model.blocks[1] = torch.compile(model.blocks[1], backend=backend)
    model.blocks[2].compile(backend=backend)
    stances: list[str] = []
    model.head.register_forward_pre_hook(lambda *_: stances.append(torch._dynamo.eval_frame._stance.stance))
    assert torch.equal(explain("raw_attention", model, images()), expected)
    assert runs == []
    assert stances == ["default"] * 2  # the probe's pass and the explanation's


def test_target_is_a_class_of_the_model() -> None:
    assert lived_in(training=False).num_classes > TARGET
