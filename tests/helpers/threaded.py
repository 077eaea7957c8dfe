"""Explain a model in one thread while other threads call it."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import tiny

TARGET = 3


class ModeScale(nn.Module):
    """Doubles in training mode, so that a single call in the wrong mode shows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if self.training else 1.0)


def lived_in(*, training: bool) -> Any:
    """Build a ViT of 2 x 2 patches whose mode, flags and hooks an explanation must change."""
    model: Any = tiny("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=5)
    model.norm = nn.Sequential(model.norm, ModeScale())
    model.blocks[0].attn.fused_attn = False
    model.set_grad_checkpointing(True)
    return model.train(training)


def images(batch: int = 1) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def explain(method: str, model: nn.Module, inputs: Tensor) -> Tensor:
    """Compute the map of a method, for class `TARGET` where it wants one."""
    return vi.EXPLAINERS[method](model).patch_map(inputs, target=TARGET)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs in threads of their own that start at once, and return their results, or what they raised."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = jobs[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def differences(method: str, model: nn.Module, explanations: int, calls: int) -> tuple[int, int, int]:
    """Count what differs when one thread explains and another runs the model.

    Returns:
        Plain calls, those whose output differs from the model's, and maps that differ from the map computed alone.
    """
    inputs = images()
    expected = explain(method, model, inputs)
    with torch.no_grad():
        alone = model(inputs)
    done = threading.Event()

    def explaining() -> int:
        try:
            return sum(not torch.equal(explain(method, model, inputs), expected) for _ in range(explanations))
        finally:
            done.set()

    def calling() -> tuple[int, int]:
        made = wrong = 0
        with torch.no_grad():
            while made < calls or not done.is_set():
                wrong += not torch.equal(model(inputs), alone)
                made += 1
        return made, wrong

    wrong_maps, plain = together(explaining, calling)
    for result in (wrong_maps, plain):
        if isinstance(result, BaseException):
            raise result
    return *plain, wrong_maps
