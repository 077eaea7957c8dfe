"""Signals that stop a run."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from vit_interactions.training.interruption import ignore_signals, interruption

UNCAUGHT = """
from torch.utils.data import DataLoader
from vit_interactions.training.interruption import ignore_signals
batches = iter(DataLoader(range(9), num_workers=2, worker_init_fn=ignore_signals))
next(batches)
raise RuntimeError("while both workers run")
"""


class WorkerIds:
    """Samples are the id of the process that loads them."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def test_second_interrupt_ends_immediately() -> None:
    with interruption() as asked:
        assert asked.agreed(torch.device("cpu")) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.agreed(torch.device("cpu")) == signal.SIGTERM
    with interruption() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


needs_senders = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs the sender of a signal")


@needs_senders
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_ignore_signals_of_other_processes(number: int) -> None:
    loader = DataLoader(WorkerIds(), num_workers=1, prefetch_factor=1, worker_init_fn=ignore_signals)  # type: ignore[arg-type]
    batches = iter(loader)
    worker = int(next(batches))
    assert worker != os.getpid()
    subprocess.run([sys.executable, "-c", f"import os; os.kill({worker}, {int(number)})"], check=True)
    assert [int(each) for each in batches] == [worker] * 8


def test_a_process_with_running_workers_ends_at_an_uncaught_error() -> None:
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: while both workers run")
