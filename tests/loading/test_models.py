"""Models load by name, and checkpoints never run code."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from vit_interactions.loading.models import load_model


@pytest.fixture
def trained() -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_vit", num_classes=7)


@pytest.mark.parametrize("form", ["safetensors", "pickle", "timm's checkpoint", "DistributedDataParallel"])
def test_weights_and_number_of_classes_come_from_the_checkpoint(
    trained: torch.nn.Module, form: str, tmp_path: Path
) -> None:
    weights = trained.state_dict()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "pickle":
        torch.save(weights, path)
    elif form == "timm's checkpoint":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    else:
        torch.save({f"module.{name}": value for name, value in weights.items()}, path)
    model = load_model("test_vit", path)
    assert not model.training
    assert model.num_classes == 7
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_distilled_and_headless_checkpoints(tmp_path: Path) -> None:
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=5)
    save_file(distilled.state_dict(), tmp_path / "distilled.safetensors")
    with pytest.raises(ValueError, match="does not fit deit_tiny_distilled_patch16_224: it has no `blocks"):
        load_model("deit_tiny_distilled_patch16_224", tmp_path / "distilled.safetensors")
    headless = timm.create_model("test_vit", num_classes=0)
    save_file(headless.state_dict(), tmp_path / "headless.safetensors")
    assert load_model("test_vit", tmp_path / "headless.safetensors").num_classes == 0


def test_half_precision_weights_load(trained: torch.nn.Module, tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in trained.state_dict().items()}, tmp_path / "half.safetensors")
    model = load_model("test_vit", tmp_path / "half.safetensors")
    assert model.head.weight.dtype == torch.float32
    assert torch.allclose(model.head.weight, trained.head.weight, atol=1e-3)


def test_code_in_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "harmed",)

    path = tmp_path / "harm.pth"
    path.write_bytes(pickle.dumps({"head.weight": Harm()}))
    with pytest.raises(ValueError, match="must be a safetensors file or a pickle of weights only"):
        load_model("test_vit", path)
    torch.save({"head.weight": Harm()}, path)
    with pytest.raises(ValueError, match="must be a safetensors file or a pickle of weights only"):
        load_model("test_vit", path)
    assert not (tmp_path / "harmed").exists()


def test_files_without_the_models_weights_raise(trained: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`checkpoint` must be a file, got nothing at"):
        load_model("test_vit", tmp_path / "missing.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="could not be read"):
        load_model("test_vit", tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="`checkpoint` must"):
        load_model("test_vit", tmp_path / "list.pth")
    save_file(trained.state_dict(), tmp_path / "test_vit.safetensors")
    with pytest.raises(ValueError, match=r"does not fit test_vit2: it has .* and \d+ more\."):
        load_model("test_vit2", tmp_path / "test_vit.safetensors")


def test_a_misspelled_name_suggests_similar_names() -> None:
    with pytest.raises(ValueError, match=r"got 'vit_tiny_patch16_244'\. Did you mean vit_tiny_patch16_224"):
        load_model("vit_tiny_patch16_244")


def test_failed_downloads_raise_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, pretrained: bool) -> None:
        raise OSError("no connection\nmore lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"as `checkpoint` \(--checkpoint .*\)\. Reason: no connection$"):
        load_model("test_vit")


@pytest.mark.parametrize(
    "prefix", ["model.", "backbone.", "encoder.", "net.", "module.model.", "student.backbone.", "_orig_mod.model."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "state_dict_ema", "weights"])
def test_prefixes_and_wrappers_are_removed(
    trained: torch.nn.Module, prefix: str, key: str | None, tmp_path: Path
) -> None:
    weights = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(
        weights if key is None else {key: weights, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "w.pt"
    )
    model = load_model("test_vit", tmp_path / "w.pt")
    assert model.num_classes == 7
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


def test_unexpected_keys_after_a_prefix_are_named_and_two_models_are_not_mixed(
    trained: torch.nn.Module, tmp_path: Path
) -> None:
    weights = trained.state_dict()
    inside = {f"model.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": {**inside, "loss.weight": torch.ones(2)}}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"it has `loss.weight`, .*\(after the prefix `model\.`\)"):
        load_model("test_vit", tmp_path / "w.pt")
    torch.save({**inside, **{f"ema.{name}": value for name, value in weights.items()}}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"does not fit test_vit: .*`(ema|model)\."):
        load_model("test_vit", tmp_path / "w.pt")
    torch.save({"student": weights, "teacher": weights}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"must contain exactly one dict of tensors"):
        load_model("test_vit", tmp_path / "w.pt")


def test_prefixes_of_torchvision_weights_are_removed(tmp_path: Path) -> None:
    from vit_interactions_adapters.torchvision import _options

    shapes = {"heads.head.weight": (7, 4), "encoder.pos_embedding": (1, 5, 4), "conv_proj.weight": (4, 3, 16, 16)}
    weights = {f"net.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    assert _options(weights) == {"num_classes": 7, "image_size": 32}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "norm.bias": w["norm.bias"].to_sparse()}, "dense tensors .* `norm.bias` with sparse_coo"),
        (lambda w: {**w, "norm.bias": w["norm.bias"].to("meta")}, "`norm.bias` with no data"),
        (lambda w: {**w, "norm.bias": w["norm.bias"].cfloat()}, "`norm.bias` with strided, complex64"),
        (lambda w: {**w, "norm.bias": w["norm.bias"].char()}, "`norm.bias` of int8 instead of float32"),
        (lambda w: {**w, "head.weight": torch.tensor(1.0)}, "does not fit test_vit"),
        (lambda w: dict(enumerate(w.values())), "`checkpoint` must"),
    ],
    ids=["sparse", "meta", "complex", "int8", "scalar", "numbers"],
)
def test_weights_that_are_not_dense_real_numbers_raise(
    trained: torch.nn.Module, change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    torch.save(change(trained.state_dict()), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        load_model("test_vit", tmp_path / "w.pt")


def test_an_unsafe_pickle_in_a_local_folder_raises_without_advice_to_run_it(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "harmed",)

    (tmp_path / "config.json").write_text('{"architecture": "test_vit", "num_classes": 2, "pretrained_cfg": {}}')
    torch.save({"head.weight": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="it is a pickle that contains more than weights") as caught:
        load_model(f"local-dir:{tmp_path}")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()
