"""Test that unclear errors of torch get an explanation, and that inputs are not modified."""

import pytest
import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.own_input import check_runnable
from vit_interactions.explain import EXPLAINERS, Explainer


class NormalizesInPlace(nn.Module):
    """A ViT behind a normalization that writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("test_vit", num_classes=5)

    def forward(self, images: Tensor) -> Tensor:
        images.sub_(0.5)
        result: Tensor = self.vit(images)
        return result


def call(explainer: type[Explainer], model: nn.Module, image: Tensor) -> Tensor:
    options = {"target": 1} if explainer.class_specific else {}
    result = explainer(model).attribute(image, **options)
    assert isinstance(result, Tensor)
    return result


MODEL_FREE = {"random_map"}
QUICK = [name for name in EXPLAINERS if name not in MODEL_FREE | {"attention_flow"}]


@pytest.mark.parametrize("name", QUICK)
def test_a_model_that_changes_its_input_is_refused_in_a_sentence_and_the_input_stays(name: str) -> None:
    image = torch.rand(1, 3, 160, 160)
    before = image.clone()
    with pytest.raises(UnsupportedModelError, match=r"changes its input in place.*`x = x - mean`"):
        call(EXPLAINERS[name], NormalizesInPlace().eval(), image)
    assert torch.equal(image, before)


def test_other_errors_of_a_model_are_named() -> None:
    class Broken(NormalizesInPlace):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("mine")

    with pytest.raises(ValueError, match=r"images that Broken takes, .* fails with RuntimeError: mine\."):
        call(vi.GMAR, Broken().eval(), torch.rand(1, 3, 160, 160))


@pytest.mark.parametrize("name", ["gmar", "raw_attention", "attn_lrp", "interaction_uncertainty"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_without_weights_is_refused_in_a_sentence(name: str, device: str) -> None:
    model = timm.create_model("test_vit", num_classes=5).eval().to("meta")
    with pytest.raises(UnsupportedModelError, match="on the meta device, which holds no weights"):
        call(EXPLAINERS[name], model, torch.rand(1, 3, 160, 160).to(device))


def test_an_exported_model_is_refused_and_a_traced_one_is_not() -> None:
    layer = nn.Linear(2, 2)
    check_runnable(torch.fx.symbolic_trace(layer))
    with pytest.raises(UnsupportedModelError, match=r"exported by `torch\.export`"):
        check_runnable(torch.export.export(layer, (torch.ones(1, 2),)).module())


@pytest.mark.parametrize("name", [*QUICK, "random_map"])
def test_maps_do_not_depend_on_the_default_device(name: str) -> None:
    model, image = timm.create_model("test_vit", num_classes=5).eval(), torch.rand(1, 3, 160, 160)
    wanted = call(EXPLAINERS[name], model, image)
    torch.set_default_device("meta")  # whatever is made there without need cannot be used
    try:
        assert torch.equal(call(EXPLAINERS[name], model, image), wanted)
    finally:
        torch.set_default_device(None)
