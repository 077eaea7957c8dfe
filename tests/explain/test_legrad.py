"""LeGrad: each block's own score by autograd through an unfused softmax, and limits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.helpers.explicit_attention import close, explicit, images, vit
from tests.helpers.families import CLASSES, FAMILIES
from tests.helpers.torchvision_models import replayed
from tests.helpers.torchvision_models import vit as torchvision_vit
from tests.helpers.transformers_models import TABLE
from vit_interactions.explain.legrad import LeGrad

MODELS = {
    "token": lambda: vit(),
    "distilled": lambda: vit("deit_tiny_distilled_patch16_224"),
    "avg": lambda: vit(global_pool="avg"),
    "no class token": lambda: vit(global_pool="avg", class_token=False),
    "layer scale, registers": lambda: vit(init_values=0.7, reg_tokens=2, num_classes=CLASSES),
}


def own_scores(model: nn.Module, states: list[Tensor], target: int, pool: str) -> list[Tensor]:
    """Compute s_l = head_c(norm(pool(X_l))) for each kind of model."""
    scores = []
    for state in states:
        if pool == "mean_all":
            pooled = model.fc_norm(model.norm(state.mean(1)))
            scores.append(model.head(pooled)[:, target])
            if hasattr(model, "head_dist"):
                scores[-1] = (scores[-1] + model.head_dist(pooled)[:, target]) / 2
        else:
            normed = model.norm(state)
            if hasattr(model, "head_dist"):
                both = model.head(normed[:, 0]) + model.head_dist(normed[:, 1])
                scores.append(both[:, target] / 2)
            else:
                average = model.global_pool == "avg"
                read = normed[:, model.num_prefix_tokens :].mean(1) if average else normed[:, 0]
                scores.append(model.head(model.fc_norm(read))[:, target])
    return scores


def in_loops(scores: list[Tensor], attentions: list[Tensor]) -> Tensor:
    """Compute Σ_l E_l with E_l[j] = mean_h mean_i max(ds_l/dA_l, 0)[i, j], (batch, tokens)."""
    batch, heads, tokens = attentions[0].shape[:3]
    total = [[0.0] * tokens for _ in range(batch)]
    for score, attention in zip(scores, attentions, strict=True):
        gradient = torch.autograd.grad(score.sum(), attention, retain_graph=True)[0].tolist()
        for b in range(batch):
            for j in range(tokens):
                terms = [max(gradient[b][h][i][j], 0.0) for h in range(heads) for i in range(tokens)]
                total[b][j] += sum(terms) / len(terms)
    return torch.tensor(total, dtype=torch.float64)


@pytest.mark.parametrize("layers", [-1, -2, -3, "all"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_equation_in_loops(name: str, pool: Any, layers: Any) -> None:
    model, x, target = MODELS[name](), images(), 3
    seen = explicit(model, x)
    scores = own_scores(model, seen.outputs, target, pool)
    used = slice(None if layers == "all" else layers, None)
    expected = in_loops(scores[used], seen.attentions[used])[:, -9:]
    result = LeGrad(model, pool=pool, layers=layers).patch_map(x, target=target).flatten(1)
    close(result, expected, 1e-12)
    assert expected.max() > 1e-3


# What transformers' models make of the tokens after a block.
READOUTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "vit": lambda m, x: m.classifier(m.vit.layernorm(x)[:, 0]),
    "vit_features": lambda m, x: m.pooler.dense(m.layernorm(x)[:, 0]).tanh(),
    "deit": lambda m, x: m.classifier(m.deit.layernorm(x)[:, 0]),
    "distilled": lambda m, x: (
        (m.cls_classifier(m.deit.layernorm(x)[:, 0]) + m.distillation_classifier(m.deit.layernorm(x)[:, 1])) / 2
    ),
    "beit": lambda m, x: m.classifier(m.beit.pooler.layernorm(x[:, 1:].mean(1))),
    "dinov2": lambda m, x: m.classifier(beside(m.dinov2.layernorm(x), 1)),
    "dinov2_registers_classifier": lambda m, x: m.classifier(beside(m.dinov2_with_registers.layernorm(x), 5)),
    "dinov3": lambda m, x: m.norm(x)[:, 0],
    "clip": lambda m, x: m.post_layernorm(x[:, 0]),
    "clip_projected": lambda m, x: m.visual_projection(m.vision_model.post_layernorm(x[:, 0])),
    "clip_classifier": lambda m, x: m.classifier(x[:, 1:].mean(1)),
    "siglip_classifier": lambda m, x: m.classifier(m.vision_model.post_layernorm(x).mean(1)),
}


class WrittenOut(TorchFunctionMode):
    """Computes softmax(q kᵀ · scale + mask) v step by step wherever a model calls scaled dot-product attention."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.attentions: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace that one function."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        scale, mask = kwargs.get("scale") or query.shape[-1] ** -0.5, kwargs.get("attn_mask")
        self.attentions.append((query @ key.mT * scale + (0 if mask is None else mask)).softmax(-1))
        return self.attentions[-1] @ value


def written_out(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the attention of each layer and the tokens after each block, in one graph."""
    states: list[Tensor] = []
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 2)
    hooks = [block.register_forward_hook(lambda module, args, output: states.append(output)) for block in blocks]
    with WrittenOut() as mode:
        model(x)
    for hook in hooks:
        hook.remove()
    return mode.attentions, states


def beside(tokens: Tensor, prefix: int) -> Tensor:
    """Concatenate the class token and the mean of the patches."""
    return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], 1)


@pytest.mark.parametrize("layers", [-1, "all"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
@pytest.mark.parametrize("name", READOUTS)
def test_models_of_transformers_are_read_by_what_follows_their_last_block(
    name: str, pool: Any, layers: Any
) -> None:
    row = TABLE[name]
    model, x = row.build().double(), row.images().double()
    attentions, states = written_out(model, x)
    read = [state.mean(1, keepdim=True).expand_as(state) if pool == "mean_all" else state for state in states]
    scores = [READOUTS[name](model, state)[:, 2] for state in read]
    used = slice(None if layers == "all" else layers, None)
    expected = in_loops(scores[used], attentions[used])[:, row.prefix :]

    def neuron(output: Any) -> Tensor:
        return next(output[key] for key in ("logits", "image_embeds", "pooler_output") if key in output)[:, 2]

    result = LeGrad(model, pool=pool, layers=layers).patch_map(x, target=neuron).flatten(1)
    close(result, expected, 1e-12)
    assert expected.max() > 1e-6


@pytest.mark.parametrize("layers", [-1, "all"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
def test_models_of_torchvision_too(pool: Any, layers: Any) -> None:
    model, x = torchvision_vit().double(), images(size=64)
    attentions: list[Tensor] = []
    states: list[Tensor] = []
    replayed(model, x, attentions, states)
    scores = []
    for state in states:
        read = state.mean(1) if pool == "mean_all" else state[:, 0]
        scores.append(model.heads(model.encoder.ln(read))[:, 4])
    used = slice(None if layers == "all" else layers, None)
    expected = in_loops(scores[used], attentions[used])[:, 1:]
    close(LeGrad(model, pool=pool, layers=layers).patch_map(x, target=4).flatten(1), expected, 1e-12)
    assert expected.max() > 1e-4


def test_the_pooling_head_of_transformers_siglip() -> None:
    row = TABLE["siglip"]
    model: Any = row.build().double()
    x, head = row.images().double(), model.head
    expected: Any = 0
    for state in written_out(model, x)[1]:
        tokens = model.post_layernorm(state)
        weights, biases = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
        given = (head.probe.expand(2, -1, -1), tokens, tokens)
        query, key, value = (
            (t @ w.T + b).unflatten(-1, (2, 16)).transpose(1, 2)
            for t, w, b in zip(given, weights, biases, strict=True)
        )
        attention = (query @ key.mT / 4).softmax(-1).detach().requires_grad_()
        pooled = head.attention.out_proj((attention @ value).transpose(1, 2).flatten(2))
        answer = (pooled + head.mlp(head.layernorm(pooled)))[:, 0, 5]
        (gradient,) = torch.autograd.grad(answer.sum(), attention)
        expected = expected + gradient.clamp(min=0).mean(1)[:, 0]
    result = LeGrad(model).patch_map(x, target=lambda output: output.pooler_output[:, 5])
    close(result.flatten(1), expected, 1e-12)
    assert expected.max() > 1e-6


@pytest.mark.parametrize("name", ["siglip", "test_vit3", "naflex_map"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
def test_a_pooling_heads_attention_takes_the_place_of_the_blocks(name: str, pool: Any) -> None:
    """The pool is applied to X_l for each l; the gradient is at its attention, mean over heads, latent row 0."""
    family = FAMILIES[name]
    model, x = family.build().double(), family.images().double()
    seen = explicit(model, x).outputs
    head = model.attn_pool
    expected: Any = 0
    for state in seen[-2:]:
        tokens = model.norm(state)[:, 0 if model.pool_include_prefix else model.num_prefix_tokens :]
        if head.pos_embed is not None:
            tokens = tokens + head.pos_embed

        def split(t: Tensor) -> Tensor:
            return t.unflatten(-1, (head.num_heads, -1)).transpose(1, 2)

        key, value = head.kv(tokens).chunk(2, -1)
        query = head.q_norm(split(head.q(head.latent.expand(len(x), -1, -1))))
        attention = (query @ head.k_norm(split(key)).mT * head.scale).softmax(-1).detach().requires_grad_()
        pooled = head.proj((attention @ split(value)).transpose(1, 2).flatten(2))
        pooled = pooled + head.mlp(head.norm(pooled))
        score = model.head(model.fc_norm(pooled[:, 0]))[:, 2].sum()
        (gradient,) = torch.autograd.grad(score, attention)
        expected = expected + gradient.clamp(min=0).mean(1)[:, 0][:, -16:]
    close(LeGrad(model, pool=pool).patch_map(x, target=2).flatten(1), expected, 1e-12)
    assert expected.max() > 1e-3


def test_a_pooling_head_that_does_not_run_leaves_the_blocks_attention() -> None:
    class Features(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.vit = inner

        def forward(self, image: Tensor) -> Tensor:
            return self.vit.forward_features(image)

    family = FAMILIES["siglip"]
    model, x = family.build().double(), family.images().double()
    seen = explicit(model, x)
    scores = [model.norm(state.mean(1))[:, 3] for state in seen.outputs]
    result = LeGrad(Features(model)).patch_map(x, target=lambda output: output[:, 5, 3])
    close(result.flatten(1), in_loops(scores, seen.attentions), 1e-12)


def test_of_several_latents_the_first_is_the_one_that_is_read() -> None:
    family = FAMILIES["siglip"]
    model, x = family.build().double(), family.images().double()
    expected = LeGrad(model).patch_map(x, target=2)
    latent = model.attn_pool.latent
    model.attn_pool.latent_len = 2
    model.attn_pool.latent = nn.Parameter(torch.cat([latent, torch.randn_like(latent)], 1))
    close(LeGrad(model).patch_map(x, target=2), expected, 1e-12)


def test_the_last_block_read_by_its_class_token_is_that_row_of_the_end_to_end_gradient() -> None:
    # E_L[j] = mean_h max(G_L[0, j], 0) / N, and other blocks' own scores are not the model's.
    model, x = vit(), images()
    seen = explicit(model, x)
    gradients = seen.gradients(seen.output[:, 1])
    last = LeGrad(model, pool="model", layers=-1).patch_map(x, target=1).flatten(1)
    close(last, gradients[-1].clamp(min=0).mean(1)[:, 0, 1:] / 10, 1e-12)
    for layer in (1, 2):
        own = (
            LeGrad(model, pool="model", layers=-1 - layer).patch_map(x, target=1)
            - LeGrad(model, pool="model", layers=-layer).patch_map(x, target=1)
        ).flatten(1)
        end_to_end = gradients[-1 - layer].clamp(min=0).mean((1, 2))[:, 1:]
        assert (own - end_to_end).abs().max() > 1e-2 * end_to_end.max()


@pytest.mark.parametrize("pool", ["mean_all", "model"])
def test_a_block_whose_attention_goes_nowhere_has_no_term(pool: Any) -> None:
    model, x = vit(), images()
    nn.init.zeros_(model.blocks[1].attn.proj.weight)
    assert LeGrad(model, pool=pool, layers=-1).patch_map(x, target=0).max() > 0
    assert torch.equal(
        LeGrad(model, pool=pool, layers=-2).patch_map(x, target=0),
        LeGrad(model, pool=pool, layers=-1).patch_map(x, target=0),
    )


def test_the_predicted_class_is_the_models_for_every_block() -> None:
    model, x = vit(), images(4)
    with torch.no_grad():
        classes = model(x).argmax(1)
    explainer = LeGrad(model, layers="all")
    assert torch.equal(explainer.patch_map(x, target="pred"), explainer.patch_map(x, target=classes))
    assert torch.equal(
        explainer.patch_map(x, target=lambda output: output[:, 1]), explainer.patch_map(x, target=1)
    )


@pytest.mark.parametrize(
    "target",
    [[4, 2], torch.tensor([4, 2]), lambda output: output[[0, 1], [4, 2]]],
    ids=["list", "tensor", "function"],
)
def test_each_image_has_its_own_target_whatever_the_number_of_blocks(target: Any) -> None:
    model, x = vit(), images()
    result = LeGrad(model, layers="all").patch_map(x, target=target)
    for b, one in enumerate((4, 2)):
        close(result[b], LeGrad(model, layers="all").patch_map(x[b : b + 1], target=one), 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "mean"}, "`pool` must be one of 'mean_all', 'model', got 'mean'"),
        ({"layers": 2}, '`layers` must be an integer < 0 or "all", got 2'),
        ({"layers": 0}, '`layers` must be an integer < 0 or "all", got 0'),
        ({"layers": "last"}, "`layers` must be an integer < 0 or \"all\", got 'last'"),
    ],
)
def test_options_outside_their_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeGrad(vit(), **options)


def test_a_model_of_too_few_blocks_and_a_missing_target() -> None:
    with pytest.raises(ValueError, match="`layers` must be >= -3, the model's blocks, got -4"):
        LeGrad(vit(), layers=-4).patch_map(images(), target=0)
    with pytest.raises(
        ValueError, match="LeGrad explains one score of the output: `target` must be a class index"
    ):
        LeGrad(vit()).patch_map(images())
