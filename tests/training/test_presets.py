"""Presets: the paper's recipes, and options that override them."""

import dataclasses
from pathlib import Path

import pytest
import timm

from vit_interactions.training.presets import PRESETS, apply_preset
from vit_interactions.training.settings import TrainingSettings


def test_presets_equal_the_paper() -> None:
    imagenet = TrainingSettings(
        data=Path("x"), **apply_preset("paper-imagenet", {"teacher": "vit_base_patch16_224"})
    )
    assert (imagenet.batch_size, imagenet.lr, imagenet.epochs, imagenet.warmup_steps) == (512, 0.01, 15, 500)
    assert (imagenet.opt, imagenet.momentum, imagenet.sched, imagenet.steps) == ("sgd", 0.9, "cosine", None)
    assert (imagenet.lambda1, imagenet.lambda2, imagenet.alpha, imagenet.beta) == (1.0, 1.0, 0.10, 0.20)
    cub = TrainingSettings(data=Path("x"), **apply_preset("paper-cub", {"teacher": "vit_base_patch16_224"}))
    assert (cub.batch_size, cub.lr, cub.steps, cub.img_size, cub.sched) == (16, 0.03, 20_000, 448, "cosine")
    for settings in (imagenet, cub):
        assert settings.model == "winft_base_patch16_224.augreg_in21k"
        assert settings.pretrained
        assert settings.window_targets == "online"
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert all(set(preset) <= fields for preset in PRESETS.values())
    known = timm.get_pretrained_cfg(imagenet.model)
    assert known is not None
    assert known.num_classes == 21843


def test_options_override_the_preset() -> None:
    options = apply_preset("paper-imagenet", {"lr": 0.5, "epochs": None, "pretrained": False, "batch_size": 8})
    assert (options["lr"], options["epochs"], options["pretrained"], options["batch_size"]) == (0.5, 15, False, 8)
    assert "pretrained" not in apply_preset("paper-cub", {"initial_checkpoint": Path("start")})
    assert "steps" not in apply_preset("paper-cub", {"epochs": 3})
    # The plain ViT has the same recipe, without window targets.
    assert "window_targets" not in apply_preset("paper-imagenet", {"model": "vit_base_patch16_224.augreg_in21k"})
    assert apply_preset(None, {"lr": 0.5, "opt": None}) == {"lr": 0.5}
    with pytest.raises(ValueError, match="`preset` must be one of paper-imagenet, paper-cub, got 'paper'"):
        apply_preset("paper", {})
