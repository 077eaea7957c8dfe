"""`vit-interactions models` and `methods`."""

import re

import pytest
from vit_interactions_adapters.captum_base import CaptumMethod
from vit_interactions_adapters.methods import METHODS as OTHERS

import vit_interactions as vi
from tests.helpers.command_line import run


def test_models_and_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "test_vit*") == 0
    assert "test_vit\t160x160" in capsys.readouterr().out.splitlines()
    assert run("models", "vit_tiny_patch61") == 2
    assert "Did you mean" in capsys.readouterr().err
    assert run("methods") == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{name}$", listed, re.MULTILINE) for name in vi.EXPLAINERS)
    for name, method in OTHERS.items():
        library = "captum" if issubclass(method, CaptumMethod) else "pytorch-grad-cam"
        about, source, *_ = listed.split(f"\n{name} ({library})\n")[1].splitlines()
        assert about.startswith(f"    {method.quantity}; ")
        assert source == f"    {method.source}"
    assert (
        "    options: fusion=mean|max|min, discard=0.0, alpha=1.0, start_layer=0, exclude_sinks=false\n" in listed
    )
    assert (
        "    options: rectify=true, norm_blocks=false, readout=model|class_token, gradient=plain|libra\n" in listed
    )
    assert "    options: variant=head|token, steps=20, start=none|int\n" in listed
