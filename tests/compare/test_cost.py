"""Cost of a call, on devices that keep working after the call has returned."""

import time

import pytest
import torch

from vit_interactions.compare import cost


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mps", ["wait mps", "clock", "call", "wait mps", "clock"]),
        ("cuda", ["wait cuda", "clock", "call", "wait cuda", "clock"]),
        ("cpu", ["clock", "call", "clock"]),
    ],
)
def test_the_clock_is_read_when_the_device_has_done_its_work(
    kind: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def clock() -> float:
        seen.append("clock")
        return 10.0 * seen.count("clock")

    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: seen.append("wait mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: seen.append(f"wait {device.type}"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 350)
    found = cost.measured(lambda: seen.append("call"), torch.device(kind))
    assert seen == expected
    assert found.seconds == 10.0
    if kind != "cpu":  # whose figures are the system's
        assert found.peak == {"cuda": 250, "mps": None}[kind]
