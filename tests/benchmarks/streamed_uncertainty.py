"""What U costs beside a plain forward pass: time by alternation in one process, peak memory one process each.

    python tests/benchmarks/streamed_uncertainty.py

Prints a Markdown table. "naive" is the usual way: the model unfused, the attention maps of all layers caught by
hooks, stacked, and `var` over them.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
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
    """Run the unfused model, keep every map, stack them, take the variances."""
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: maps.append(output))
    prefix = model.num_prefix_tokens

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        maps.clear()
        model(images)
        attention = torch.stack(maps)[..., prefix:, prefix:]
        return attention.var(0, correction=0).var(1, correction=0)

    return run


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "plain forward": plain,
    "streamed U": streamed,
    "naive U": naive,
}


def build(name: str, size: int, batch: int, device: str) -> tuple[nn.Module, Tensor]:
    """Make the model with random weights and a batch of noise: neither changes what it costs."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval().to(device)
    return model, torch.randn(batch, 3, size, size, device=device)


def times(name: str, size: int, batch: int, device: str, rounds: int) -> dict[str, list[float]]:
    """Time the ways in turn, round by round, after one round that does not count."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    runs = {}
    for way, make in WAYS.items():
        model, images = build(name, size, batch, device)
        runs[way] = make(model)
    for counted in range(-1, rounds):
        for way, run in runs.items():
            started = time.perf_counter()
            run(images)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if counted >= 0:
                seconds[way].append(time.perf_counter() - started)
    return seconds


def peak(name: str, size: int, batch: int, device: str, way: str) -> float:
    """Measure the peak memory in GB of one call above the loaded model, in this process."""
    model, images = build(name, size, batch, device)
    run = WAYS[way](model)
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(images)
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run(images)
    return (resident("VmHWM") - before) / 1e9


def resident(field: str) -> int:
    """Read a memory figure of this process in bytes (Linux)."""
    status = Path("/proc/self/status").read_text().split(field + ":")[1]
    return int(status.split()[0]) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", nargs=2, metavar=("SETTING", "WAY"), help="print one peak only")
    options = parser.parse_args()
    if options.peak:
        setting, way = options.peak
        print(peak(*SETTINGS[setting], options.device, way))
        return
    print(
        f"torch {torch.__version__}, timm {timm.__version__}, {options.device}, {torch.get_num_threads()} threads"
    )
    print("\n| setting | way | time / plain: median (min-max) | peak memory, GB an image |")
    print("| --- | --- | --- | --- |")
    for setting, (name, size, batch) in SETTINGS.items():
        seconds = times(name, size, batch, options.device, options.rounds)
        for way in WAYS:
            ratios = [mine / theirs for mine, theirs in zip(seconds[way], seconds["plain forward"], strict=True)]
            command = [sys.executable, __file__, "--device", options.device, "--peak", setting, way]
            memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / batch
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"| {setting} | {way} | {spread} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
