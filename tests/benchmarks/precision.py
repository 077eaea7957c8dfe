"""Measure rounding error: maps in float32 against float64, and against a model whose weights changed by rounding.

    python tests/benchmarks/precision.py MODEL CHECKPOINT FOLDER [IMAGES] [--method NAME ...]

Prints, per method over the first images of a folder:

- the largest difference between the float32 and the float64 map, relative to the largest value of the latter,
- their lowest rank correlation,
- the lowest rank correlation of the float64 map with that of a model whose weights are perturbed by a relative 6e-8.
"""

import argparse
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=int, nargs="?", default=10)
    # Attention flow takes minutes per image.
    every = [name for name in vi.EXPLAINERS if name != "attention_flow"]
    parser.add_argument("--method", nargs="*", default=every)
    options = parser.parse_args()
    model = load_model(options.model, Path(options.checkpoint)).eval()
    models = [model, copy.deepcopy(model).double(), nudged(copy.deepcopy(model).double())]
    paths = sorted(options.folder.glob("*.jpg"))[: options.images]
    images = [prepare(read_image(path), model).input[None] for path in paths]
    warnings.simplefilter("ignore", UserWarning)
    print("| method | largest difference | lowest rank correlation | lowest with nudged weights |")
    print("| --- | --- | --- | --- |")
    for name in options.method:
        rows = torch.tensor(list(compare(name, models, images)))
        difference, agreement, nudge = rows[:, 0].max(), rows[:, 1].min(), rows[:, 2].min()
        print(f"| `{name}` | {difference:.1e} | {agreement:.4f} | {nudge:.4f} |", flush=True)


def rank_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Compute the rank correlation of maps (batch, patches) with their partners, (batch,) in float64."""
    ranks = [maps.argsort(dim=1, stable=True).argsort(1).double() for maps in (first, second)]
    first, second = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    agreement: Tensor = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    return agreement


@torch.no_grad()
def nudged(model: nn.Module) -> nn.Module:
    """Multiply each weight by 1 + 6e-8 times a normal number: half a unit in the last place of float32."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.mul_(1 + 6e-8 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def compare(name: str, models: list[nn.Module], images: list[Tensor]) -> Iterator[tuple[float, float, float]]:
    """Yield the relative difference, the rank correlation, and that with nudged weights, per image."""
    for image in images:
        target = int(models[0](image).argmax())
        single, double, other = (
            vi.EXPLAINERS[name](model)
            .patch_map(image.to(next(model.parameters()).dtype), target)
            .flatten(1)
            .double()
            for model in models
        )
        largest = double.abs().max()  # 0 where a map is zero everywhere
        difference = (single - double).abs().max() / (largest if largest > 0 else 1)
        ranks = [rank_agreement(maps, double).item() for maps in (single, other)]
        yield difference.item(), ranks[0], ranks[1]


if __name__ == "__main__":
    main()
