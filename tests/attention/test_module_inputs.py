"""Tests of recording the inputs of modules."""

import pytest
import torch
from torch import nn

from vit_interactions.attention.module_inputs import module_inputs


def test_module_inputs_notes_what_hooks_make_of_the_input_and_leaves_none_behind() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Identity())
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.append(nn.Linear(2, 2))  # does not take one number
    with pytest.raises(RuntimeError), module_inputs(model) as seen:
        model(torch.tensor([-1.0]))
    assert [call.args[0].item() for call in (*seen[model[0]], *seen[model[1]])] == [-1.0, 1.0]
    assert [len(module._forward_pre_hooks) for module in model] == [0, 1, 0]
