"""Cascading randomization: does the map depend on what the model has learned?

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, Sec. 3.1. They re-initialize layers. Here each
parameter is redrawn from a normal distribution with its own mean and standard deviation, which keeps the scale of each
layer and works for any initialization.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.observe import observe
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.rerun import rerun_method


def block_names(callers: Sequence[str]) -> list[str]:
    """Return the names of the blocks that contain the attention modules: each name up to the first number in it.

    Args:
        callers: names of the attention modules, first to last.

    Raises:
        UnsupportedModelError: a module that is not in a list.

    Example:
        >>> block_names(["blocks.0.attn", "blocks.1.attn"])
        ['blocks.0', 'blocks.1']
    """
    names = []
    for caller in callers:
        parts = caller.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
        if number is None:
            raise UnsupportedModelError(
                f"`{caller}` is not in a list of blocks, so the order of the blocks is unknown. Use a model whose "
                "blocks are in a list, as in timm."
            )
        names.append(".".join(parts[: number + 1]))
    return list(dict.fromkeys(names))


def attention_blocks(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of the attention blocks; without attention, the model's children and the items of its lists.

    Example:
        >>> import timm
        >>> attention_blocks(timm.create_model("test_resnet"), torch.zeros(1, 3, 64, 64))[-2:]
        ['layer4.0', 'fc']
    """
    callers: list[str] = []
    try:
        observe(model, inputs, None, lambda call, layout: callers.append(call.name))
    except UnsupportedModelError:
        parts = [
            (f"{name}.{inner}", module) if isinstance(part, nn.Sequential | nn.ModuleList) else (name, part)
            for name, part in model.named_children()
            for inner, module in (part.named_children() if len(list(part.children())) else [("", part)])
        ]
        return list(dict.fromkeys(name for name, part in parts if any(True for _ in part.parameters())))
    return block_names(callers)


def parameter_stages(model: nn.Module, blocks: Sequence[str]) -> list[list[nn.Parameter]]:
    """Group the parameters from the head down: those after the blocks, then each block, the last one first.

    Args:
        model: model whose modules are registered in the order in which they run, as in timm, torchvision and
            transformers.
        blocks: names of the blocks, first to last.

    Returns:
        The parameters of each stage, without those before the blocks.
    """
    names = [name for name, _ in model.named_parameters()]
    parameters = dict(model.named_parameters())
    of_block = [[name for name in names if name.startswith(f"{block}.")] for block in blocks]
    after = names[names.index(of_block[-1][-1]) + 1 :]
    return [[parameters[name] for name in stage] for stage in (after, *reversed(of_block)) if stage]


@torch.no_grad()
def redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Redraw a parameter from a normal distribution with its own mean and standard deviation.

    Example:
        >>> bias = torch.full((3,), 7.0)
        >>> redraw(bias, torch.Generator())
        >>> bias
        tensor([7., 7., 7.])
    """
    values = parameter.double()
    noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator, device=generator.device).to(
        parameter.device
    )
    parameter.copy_(values.mean() + values.std(correction=0) * noise)


def randomized_models(model: nn.Module, blocks: Sequence[str], seed: int) -> Iterator[nn.Module]:
    """Yield the same copy of the model again and again, each time with one more of its `parameter_stages` redrawn."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for stage in parameter_stages(changed, blocks):
        for parameter in stage:
            redraw(parameter, generator)
        yield changed


def randomization(*, name: str = "randomization") -> Metric:
    """Create the metric: mean |Spearman correlation| between the original map and the maps of the randomized models.

    If the map of a randomized model is constant, nothing is left of the original, and the correlation counts as 0. For
    two random maps of 196 patches, the mean |correlation| is 0.06.

    Args:
        name: name in tables.

    Returns:
        The metric; the curve of its score is (fraction of the stages redrawn, signed correlation), from (0, 1).

    Example:
        >>> randomization().direction
        'lower'
    """

    def measure(case: Case, patch_map: Tensor) -> Score:
        from scipy.stats import spearmanr  # takes two seconds

        original = check_map(patch_map, case.layout.grid)
        model = unwrap(case.model)
        correlations = [1.0]
        for changed in randomized_models(model, attention_blocks(model, case.inputs), case.seed):
            values = rerun_method(case, changed, case.inputs)[0]
            constant = values.min() == values.max()
            correlations.append(
                0.0 if constant else float(spearmanr(original.flatten(), values.flatten()).statistic)
            )
        curve = torch.tensor(correlations, dtype=torch.float64, device="cpu")
        points = torch.linspace(0, 1, len(curve), dtype=torch.float64, device="cpu")
        return Score(float(curve[1:].abs().mean()), torch.stack([points, curve], dim=1))

    return Metric(
        name=name,
        direction="lower",
        range=(0.0, 1.0),
        source="Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018",
        parameters={"order": "head, last block ... first block", "draw": "normal, own mean and deviation"},
        needs=frozenset({"explain"}),
        cost="one map per block and one for the head, and one copy of the model",
        measure=measure,
    )
