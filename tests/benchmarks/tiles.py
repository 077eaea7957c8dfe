"""Count the tiles of the attention matrix that windows touch: what a block-sparse kernel would have to compute.

    python tests/benchmarks/tiles.py [--vit-small WEIGHTS] [--images 2]

Kernels skip tiles of the attention matrix, 64 x 64 or 128 x 128 pairs, not single pairs. A tile is touched if the
window of any of its rows contains any of its columns. In the model's order, a tile's rows are 64 patches of a few rows
of the image; in the 2-D order, they are a square of 8 x 8 patches (a rectangle of 8 x 16), and squares at the border
are padded. Prefix tokens, which attend to all and are attended to by all, are left out.

Prints a Markdown table of means over photos: windows of AWD-ViT from the bundled ViT and from a ViT-S/14 (DINOv2
weights in timm's format), and of the bundled WinfT, whose layers have windows of their own.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.images.bundled import bundled_images
from vit_interactions.models.record_windows import record_windows
from vit_interactions.training.teacher import WindowTeacher

TILES = {64: (8, 8), 128: (8, 16)}  # pairs per side: rows and columns of patches
SIDES = {8: (112, 296, 512), 14: (224, 518, 1022)}  # of images, by the side of a patch
# α, and the fraction of a patch's relevant patches that its window contains; 1 is the paper's bounding box.
OPTIONS = ((0.10, 1.0), (0.025, 1.0), (0.025, 0.9))


def in_order(grid: tuple[int, int], size: int) -> Tensor:
    """Number the tile of each patch, (patches,), where tiles are `size` patches that follow each other."""
    return torch.arange(grid[0] * grid[1]) // size


def in_squares(grid: tuple[int, int], size: int) -> Tensor:
    """Number the tile of each patch, (patches,), where tiles are rectangles of `size` patches."""
    height, width = TILES[size]
    rows, cols = torch.arange(grid[0]) // height, torch.arange(grid[1]) // width
    return (rows.unsqueeze(1) * (int(cols.max()) + 1) + cols).flatten()


def touched(mask: Tensor, tiles: Tensor) -> float:
    """Compute the fraction of all tiles that windows touch.

    Args:
        mask: (batch, patches, patches) bool, whether patch j is in the window of patch i.
        tiles: (patches,), the tile of each patch.
    """
    member = nn.functional.one_hot(tiles).float()  # (patches, tiles)
    return (member.mT @ mask.float() @ member).gt(0).double().mean().item()


def awd_windows(model: nn.Module, alpha: float, coverage: float) -> Callable[[Tensor], list[Tensor]]:
    """Return the function that computes the windows of AWD-ViT, the same in all layers, with a model as teacher."""
    teacher = WindowTeacher(model, alpha=alpha, coverage=coverage)
    return lambda images: [teacher(images).mask]


def own_windows(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    """Return the function that computes the windows of a WinfT, per layer."""

    @torch.no_grad()
    def run(images: Tensor) -> list[Tensor]:
        with record_windows(model) as record:
            model(images)
            return record.masks

    return run


def subjects(vit_small: Path | None) -> Iterator[tuple[str, nn.Module, Callable[[Tensor], list[Tensor]]]]:
    """Yield name, model and windows of each model and size."""
    for side, options in product(SIDES[8], OPTIONS):
        model = timm.create_model("vit_mini_patch8_112", pretrained=True, img_size=side).eval()
        yield (
            f"AWD-ViT, ViT-mini/8 at {side}, α {options[0]}, coverage {options[1]}",
            model,
            awd_windows(model, *options),
        )
    for side, options in product(SIDES[14] if vit_small else (), OPTIONS):
        model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=side).eval()
        model.load_state_dict(checkpoint_filter_fn(load_file(vit_small), model))
        yield (
            f"AWD-ViT, ViT-S/14 at {side}, α {options[0]}, coverage {options[1]}",
            model,
            awd_windows(model, *options),
        )
    for side in SIDES[8]:
        model = timm.create_model("winft_mini_patch8_112", pretrained=True, img_size=side).eval()
        yield f"WinfT-mini/8 at {side}", model, own_windows(model)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vit-small", type=Path, help="weights of vit_small_patch14_dinov2")
    parser.add_argument("--images", type=int, default=2)
    options = parser.parse_args()
    kinds = [(order, size) for size in TILES for order in (in_order, in_squares)]
    names = {in_order: "model's order", in_squares: "2-D order"}
    print(
        "| windows | patches | pairs inside |"
        + "".join(f" {size} tiles, {names[order]} |" for order, size in kinds)
    )
    print("|" + " --- |" * (3 + len(kinds)))
    for name, model, windows in subjects(options.vit_small):
        shares = []
        for path in bundled_images()[: options.images]:
            inputs = prepare(read_image(path), model).input.unsqueeze(0)
            masks = windows(inputs)
            side = round(masks[0].shape[-1] ** 0.5)
            for mask in masks:
                found = [touched(mask, order((side, side), size)) for order, size in kinds]
                shares.append([mask.double().mean().item(), *found])
        means = torch.tensor(shares).mean(0).tolist()
        print(f"| {name} | {side}² | " + " | ".join(f"{mean:.0%}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    main()
