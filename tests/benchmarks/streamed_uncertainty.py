"""Measure the cost of U relative to a plain forward pass.

    python tests/benchmarks/streamed_uncertainty.py

Prints a Markdown table. Times come from alternating runs in one process. Each peak memory is that of a second call in a
separate process. "Naive" is the usual implementation: unfused attention, hooks that collect the attention maps of all
layers, `torch.stack` and `var`.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import timm
import torch
from cost import peak, seconds_in_turn
from torch import Tensor, nn

import vit_interactions as vi

SETTINGS = {
    "ViT-B/16 at 224, batch 8": ("vit_base_patch16_224", 224, 8),
    "DINOv2-B/14 at 518, batch 1": ("vit_base_patch14_dinov2", 518, 1),
}


def plain(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run the model and nothing else."""
    return torch.no_grad()(model)


def streamed(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run this library's U."""
    return vi.InteractionUncertainty(model).uncertainty


def naive(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run the unfused model, collect and stack all maps, and compute the variances."""
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: maps.append(output))
    prefix = model.num_prefix_tokens

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        model(images)
        attention = torch.stack(maps)[..., prefix:, prefix:]
        found = attention.var(0, correction=0).var(1, correction=0)
        maps.clear()
        return found

    return run


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "plain forward": plain,
    "streamed U": streamed,
    "naive U": naive,
}


def build(way: str, name: str, size: int, batch: int, device: str) -> Callable[[], Tensor]:
    """Create the run of one implementation; random weights and noise do not affect the cost."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval().to(device)
    return partial(WAYS[way](model), torch.randn(batch, 3, size, size, device=device))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("SETTING", "WAY"), help="print only one peak memory")
    options = parser.parse_args()
    if options.peak:
        setting, way = options.peak
        run = build(way, *SETTINGS[setting], options.device)
        run()  # the first call also probes the model
        print(peak(run, options.device))
        return
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, {options.device}, {torch.get_num_threads()} threads"
    )
    print("\n| setting | implementation | time / plain: median (min-max) | peak memory, GB per image |")
    print("| --- | --- | --- | --- |")
    for setting, (name, size, batch) in SETTINGS.items():
        runs = {way: build(way, name, size, batch, options.device) for way in WAYS}
        seconds = seconds_in_turn(runs, options.device, options.rounds)
        for way in WAYS:
            ratios = [mine / theirs for mine, theirs in zip(seconds[way], seconds["plain forward"], strict=True)]
            command = [sys.executable, __file__, "--device", options.device, "--peak", setting, way]
            memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / batch
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"| {setting} | {way} | {spread} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
