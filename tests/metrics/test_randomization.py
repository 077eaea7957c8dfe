"""Randomized parameters, and correlations by hand and against Quantus."""

import copy
import itertools
from typing import Any

import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.other_metrics import (
    explain_for_quantus,
    explaining,
    gray_case,
    options,
    quantus_score,
    to_pixels,
)
from tests.helpers.planted import (
    random_map,
    slow_spearman,
    tiny_case,
)
from vit_interactions.attention import UnsupportedModelError
from vit_interactions.metrics import (
    METRICS,
    randomization,
)
from vit_interactions.metrics.randomization import block_names, parameter_stages, redraw
from vit_interactions.metrics.rerun import rerun_method


def changed(model: nn.Module, original: nn.Module) -> set[str]:
    """Return the top-level modules, and the blocks, with a parameter that differs."""
    names = set()
    for (name, one), other in zip(model.named_parameters(), original.parameters(), strict=True):
        if not torch.equal(one, other):
            parts = name.split(".")
            names.add(".".join(parts[:2]) if parts[0] == "blocks" else parts[0])
    return names


def test_layers_are_redrawn_from_the_head_down_on_a_copy() -> None:
    case = tiny_case()
    before = copy.deepcopy(case.model)
    seen: list[set[str]] = []
    heads: list[Tensor] = []

    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        assert model is not case.model
        seen.append(changed(model, before))
        heads.append(model.get_parameter("head.weight").clone())
        return random_map((3, 6), len(seen)).unsqueeze(0)

    case = tiny_case(model=case.model, explain=explain)
    score = METRICS["randomization"].measure(case, random_map((3, 6), 0))
    assert seen == [{"head"}, {"head", "blocks.1"}, {"head", "blocks.1", "blocks.0"}]
    assert all(torch.equal(one, heads[0]) for one in heads)
    assert changed(case.model, before) == set()
    assert score.curve is not None
    expected = [slow_spearman(random_map((3, 6), 0), random_map((3, 6), index)) for index in (1, 2, 3)]
    assert score.curve[:, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert score.curve[:, 1].tolist() == pytest.approx([1, *expected])
    assert score.value == pytest.approx(sum(map(abs, expected)) / 3)


def test_a_map_of_the_image_only_fails_and_a_map_of_the_weights_passes() -> None:
    def edges(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return inputs.unfold(2, 16, 16).unfold(3, 16, 16).std((-1, -2)).mean(1)

    def learned(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        weights: Any = model.get_parameter("head.weight")
        return weights[target, :18].reshape(1, 3, 6)

    case = tiny_case(explain=edges)
    assert METRICS["randomization"].measure(case, edges(case.model, case.inputs, 0)[0]).value == 1.0
    case = tiny_case(explain=learned)
    assert METRICS["randomization"].measure(case, learned(case.model, case.inputs, 2)[0]).value < 0.5
    # The random baseline is a function of the image only, so it does not depend on the model.
    case = tiny_case(explain=lambda model, inputs, target: vi.RandomMap(model).patch_map(inputs))
    random_baseline = vi.RandomMap(case.model).patch_map(case.inputs)[0]
    assert METRICS["randomization"].measure(case, random_baseline).value == 1.0


@pytest.mark.filterwarnings("error")
def test_randomization_depends_on_the_seed_only() -> None:
    def explain(model: nn.Module, inputs: Tensor, target: int) -> Tensor:
        return vi.GMAR(model).patch_map(inputs, target)

    original = vi.GMAR(tiny_case().model).patch_map(tiny_case().inputs, 2)[0]
    scores = [randomization().measure(tiny_case(explain=explain, seed=seed), original).value for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
    assert 0 <= min(scores) <= max(scores) < 1


def test_a_constant_map_has_correlation_0() -> None:
    case = tiny_case(explain=lambda model, inputs, target: torch.zeros(1, 3, 6))
    assert METRICS["randomization"].measure(case, random_map((3, 6), 0)).value == 0.0


def test_redrawn_parameters_keep_their_mean_and_deviation() -> None:
    parameter = torch.rand(200, 300, dtype=torch.float64) * 3 + 1
    original = parameter.clone()
    redraw(parameter, torch.Generator().manual_seed(1))
    assert float(parameter.mean()) == pytest.approx(float(original.mean()), abs=0.02)
    assert float(parameter.std()) == pytest.approx(float(original.std()), rel=0.02)
    assert abs(spearmanr(parameter.flatten(), original.flatten()).statistic) < 0.02


def test_parameter_stages_are_the_head_and_the_blocks() -> None:
    model = timm.create_model("test_vit3", img_size=64)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        [names[id(parameter)] for parameter in stage]
        for stage in parameter_stages(model, ["blocks.0", "blocks.1", "blocks.2"])
    ]
    assert {name.split(".")[0] for name in found[0]} >= {"head", "attn_pool"}
    assert [{name[:9] for name in stage} for stage in found[1:]] == [{"blocks.2."}, {"blocks.1."}, {"blocks.0."}]
    assert not {"pos_embed", "patch_embed.proj.weight"} & set(itertools.chain(*found))
    assert block_names(["vit.encoder.layer.0.attention", "vit.encoder.layer.10.attention"]) == [
        "vit.encoder.layer.0",
        "vit.encoder.layer.10",
    ]
    with pytest.raises(UnsupportedModelError, match=r"`trunk\.attn` is not in a list of blocks"):
        block_names(["trunk.attn"])


def test_randomization_correlations_equal_quantus_mprt(quantus: Any) -> None:
    case = explaining(gray_case())
    patch_map = rerun_method(case, case.model, case.inputs)[0]
    metric = quantus.MPRT(similarity_func=quantus.similarity_func.correlation_spearman, **options())
    theirs = quantus_score(metric, case, to_pixels(patch_map), explain_func=explain_for_quantus(case))
    wrapped = quantus.helpers.model.pytorch_model.PyTorchModel(case.model, channel_first=True)
    for name, changed in wrapped.get_random_layer_generator(seed=42):
        ours = spearmanr(patch_map.flatten(), rerun_method(case, changed, case.inputs)[0].flatten())
        assert theirs[name] == pytest.approx([ours.statistic], abs=1e-9)
    assert len(theirs) > 10
