"""Cascading randomisation: does the map depend on what the model has learned?

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, Sec. 3.1. There layers are initialised anew; here
each parameter is drawn anew from the normal distribution of its own mean and standard deviation, which needs no
knowledge of how a model was initialised and leaves the scale of its layers as it is.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.observe import observe
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.metrics.explain import explain
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map
from vit_interactions.metrics.rank_correlation import spearman


def block_names(callers: Sequence[str]) -> list[str]:
    """Find the blocks of a model from the modules that attend: each name up to the first number in it.

    Args:
        callers: names of modules, first to last.

    Raises:
        UnsupportedModelError: a module that is in no list.

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
                f"`{caller}` is in no list of blocks, so that the order of blocks cannot be told. Use a model whose "
                "blocks stand in a list, as timm's do."
            )
        names.append(".".join(parts[: number + 1]))
    return list(dict.fromkeys(names))


def attention_blocks(model: nn.Module, inputs: Tensor) -> list[str]:
    """Name the blocks that attend; of a model without attention among patches, its parts and those of its lists.

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


def stages(model: nn.Module, blocks: Sequence[str]) -> list[list[nn.Parameter]]:
    """Divide the parameters from the head down: what comes after the blocks, then each block, the last one first.

    Args:
        model: of which modules are registered in the order in which they run, as in timm, torchvision and transformers.
        blocks: names of the blocks, first to last.

    Returns:
        The parameters of each stage; what comes before the blocks is in none.
    """
    names = [name for name, _ in model.named_parameters()]
    parameters = dict(model.named_parameters())
    of_block = [[name for name in names if name.startswith(f"{block}.")] for block in blocks]
    after = names[names.index(of_block[-1][-1]) + 1 :]
    return [[parameters[name] for name in stage] for stage in (after, *reversed(of_block)) if stage]


@torch.no_grad()
def draw_anew(parameter: Tensor, generator: torch.Generator) -> None:
    """Fill a parameter from the normal distribution of its own mean and standard deviation.

    Example:
        >>> bias = torch.full((3,), 7.0)
        >>> draw_anew(bias, torch.Generator())
        >>> bias
        tensor([7., 7., 7.])
    """
    values = parameter.double()
    noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator, device=generator.device).to(
        parameter.device
    )
    parameter.copy_(values.mean() + values.std(correction=0) * noise)


def randomised(model: nn.Module, blocks: Sequence[str], seed: int) -> Iterator[nn.Module]:
    """Yield one copy of the model, with one more stage of `stages` drawn anew each time; the model is left alone."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for stage in stages(changed, blocks):
        for parameter in stage:
            draw_anew(parameter, generator)
        yield changed


def randomisation(*, name: str = "randomisation") -> Metric:
    """Make the metric: the mean over stages of |Spearman correlation| of the map to the original's.

    A map that turns constant once the model is random has nothing left of the original: its correlation counts as 0.
    Two random maps of 196 patches correlate by 0.06 in the mean.

    Args:
        name: what tables call it.

    Returns:
        Of its score's curve, (share of the stages drawn anew, correlation with its sign); at 0 the map itself.

    Example:
        >>> randomisation().direction
        'lower'
    """

    def measure(case: Case, patch_map: Tensor) -> Score:
        original = check_map(patch_map, case.layout.grid)
        model = unwrap(case.model)
        correlations = [1.0]
        for changed in randomised(model, attention_blocks(model, case.inputs), case.seed):
            values = explain(case, changed, case.inputs)[0]
            correlations.append(0.0 if values.min() == values.max() else spearman(original, values))
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
        cost="one explanation a block and one for the head, and one copy of the model",
        measure=measure,
    )
