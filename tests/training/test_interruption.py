"""Signals that stop a run."""

import os
import signal

import pytest
import torch

from vit_interactions.training.interruption import interruption


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
