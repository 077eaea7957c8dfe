"""LeGrad: the two-layer example, each block's own score by autograd through an unfused softmax, limits, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vit_interactions.attention import UnsupportedModelError
from vit_interactions.explain.legrad import LeGrad
from vit_interactions.functional.legrad import layer_sensitivity

from .explicit_attention import G1, G2, close, explicit
from .families import CLASSES, FAMILIES, tiny


def vit(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    """Three blocks of two heads, 3 x 3 patches, float64."""
    return tiny(name, **{"img_size": 48, "depth": 3, **options}).double()


def images(batch: int = 2, size: int = 48) -> Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


MODELS = {
    "token": lambda: vit(),
    "distilled": lambda: vit("deit_tiny_distilled_patch16_224"),
    "avg": lambda: vit(global_pool="avg"),
    "no class token": lambda: vit(global_pool="avg", class_token=False),
    "layer scale, registers": lambda: vit(init_values=0.7, reg_tokens=2, num_classes=CLASSES),
}


def own_scores(model: nn.Module, states: list[Tensor], target: int, pool: str) -> list[Tensor]:
    """s_l = head_c(norm(pool(X_l))), written out for each kind of model."""
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


def test_the_two_layer_example() -> None:
    close(layer_sensitivity(G2), [0.05, 0.133333, 0.066667])
    close(layer_sensitivity(G1) + layer_sensitivity(G2), [0.141667, 0.283333, 0.183333])


@pytest.mark.parametrize("layers", [-1, -2, -3, "all"])
@pytest.mark.parametrize("pool", ["mean_all", "model"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_equation_in_loops(name: str, pool: Any, layers: Any) -> None:
    """E_l[j] = mean_h mean_i max(ds_l/dA_l, 0)[i, j];  map = Σ_l E_l over patches."""
    model, x, target = MODELS[name](), images(), 3
    seen = explicit(model, x)
    scores = own_scores(model, seen.outputs, target, pool)
    result = LeGrad(model, pool=pool, layers=layers).patch_map(x, target=target).flatten(1)
    tokens = seen.attentions[0].shape[-1]
    for b in range(2):
        expected = [0.0] * tokens
        for layer in range(3 if layers == "all" else -layers):
            gradient = seen.gradients(scores[-1 - layer])[-1 - layer][b].tolist()
            for j in range(tokens):
                terms = [max(head[i][j], 0.0) for head in gradient for i in range(tokens)]
                expected[j] += sum(terms) / len(terms)
        close(result[b], expected[-9:], 1e-12)
        assert max(expected[-9:]) > 1e-3


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


def test_further_arguments_and_a_model_around_the_model() -> None:
    class Around(nn.Module):
        def __init__(self, after: float = 1.0) -> None:
            super().__init__()
            self.vit, self.after = vit(), after

        def forward(self, image: Tensor, factor: float = 1.0) -> Tensor:
            return self.vit(image * factor) * self.after

    x = images()
    result = LeGrad(Around()).patch_map(x, 1, 2.0)
    torch.testing.assert_close(result, LeGrad(vit()).patch_map(x * 2, 1))
    with pytest.raises(UnsupportedModelError, match="the output of Around is not what `norm` and `forward_head`"):
        LeGrad(Around(after=2.0)).patch_map(x, 1)


def test_the_blocks_run_one_at_a_time_after_one_forward_pass() -> None:
    model, x = vit(), images()
    model.requires_grad_(False)
    ran: list[Any] = []
    model.register_forward_hook(lambda *_: ran.append("model"))
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, i, output, number=number: ran.append((number, output.requires_grad)))
    explainer = LeGrad(model)
    explainer.patch_map(x, target=0)
    # The pass of all, the check of the head, then the used blocks with a graph, each from its own input.
    assert ran == [(0, False), (1, False), (2, False), "model", (2, False), (1, True), (2, True)]
    assert explainer.forwards == 1
    assert explainer.backwards == 2
    assert explainer.class_specific


# --- refusals ---


class Bare(nn.Module):
    """A ViT that does not say what its blocks and head are."""

    def __init__(self) -> None:
        """Take the parts of one that does."""
        super().__init__()
        inner = vit()
        self.patch_embed, self.layers, self.end, self.head = (
            inner.patch_embed,
            inner.blocks,
            inner.norm,
            inner.head,
        )
        self.num_prefix_tokens, self.global_pool = 0, "avg"

    def forward(self, image: Tensor) -> Tensor:
        """Classify the mean of the patches."""
        output: Tensor = self.head(self.end(self.layers(self.patch_embed(image))).mean(1))
        return output


def _shared() -> nn.Module:
    model = vit()
    model.blocks[2] = model.blocks[1]
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Bare, "Bare has no `blocks`, `norm` and `forward_head` as timm's ViTs have"),
        (_shared, "the 3 `blocks` of VisionTransformer run 3 attention layers, or a block runs more than once"),
        (
            lambda: vit("vit_small_patch16_18x2_224", depth=2),
            "the 2 `blocks` of VisionTransformer run 4 attention layers",
        ),
    ],
    ids=["no parts", "shared", "parallel"],
)
def test_models_of_another_structure_are_refused_with_the_reason(build: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        LeGrad(build()).patch_map(images(), target=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "mean"}, "`pool` must be one of 'mean_all', 'model', but got 'mean'"),
        ({"layers": 2}, '`layers` must be an integer < 0 or "all", but got 2'),
        ({"layers": 0}, '`layers` must be an integer < 0 or "all", but got 0'),
        ({"layers": "last"}, "`layers` must be an integer < 0 or \"all\", but got 'last'"),
    ],
)
def test_options_outside_their_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeGrad(vit(), **options)


def test_a_model_of_too_few_blocks_and_a_missing_target() -> None:
    with pytest.raises(ValueError, match="`layers` must be >= -3, the model's blocks, but got -4"):
        LeGrad(vit(), layers=-4).patch_map(images(), target=0)
    with pytest.raises(
        ValueError, match="LeGrad explains one score of the output: `target` must be a class index"
    ):
        LeGrad(vit()).patch_map(images())
