"""Evaluation: accuracy, loss and patch interactions against values by hand."""

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.helpers.command_line import failure
from tests.helpers.tiny_images import (
    SIZE,
)
from vit_interactions.training.data.datasets import open_split
from vit_interactions.training.data.loaders import (
    EvaluationLoader,
)
from vit_interactions.training.evaluate import evaluate
from vit_interactions.utilities.processes import Process

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
CPU = Process(torch.device("cpu"))


class Fixed(nn.Module):
    """A classifier that returns the first pixels as scores."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :8]


def test_evaluation_equals_values_by_hand() -> None:
    scores = torch.tensor([[9.0, 0, 0, 0, 0, 0, 0, 0], [8, 7, 6, 5, 4, 3, 2, 1], [8, 7, 6, 5, 4, 3, 2, 1]])
    images, classes = scores.view(3, 1, 2, 4), torch.tensor([0, 4, 5])
    result = evaluate(Fixed(), [(images[:2], classes[:2]), (images[2:], classes[2:])])
    logs = [-math.log(math.exp(9) / (math.exp(9) + 7))]
    total = sum(math.exp(v) for v in range(1, 9))
    logs += [-math.log(math.exp(4) / total), -math.log(math.exp(3) / total)]
    assert (result.images, result.operations, result.pairs) == (3, None, None)
    assert result.top1 == pytest.approx(100 / 3)
    assert result.top5 == pytest.approx(200 / 3)
    assert result.loss == pytest.approx(sum(logs) / 3)
    only = evaluate(Fixed(), [(images[:1], classes[:1]), (images[:0], classes[:0])])
    assert (only.images, only.top1) == (1, 100.0)
    with pytest.raises(ValueError, match="`batches` must have images, got none"):
        evaluate(Fixed(), [])


def test_a_model_of_other_classes_is_evaluated_by_a_class_map(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = timm.create_model("test_vit", num_classes=5, img_size=SIZE)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    common = ["evaluate", image_folder, "--model", "test_vit", "--checkpoint", tmp_path / "model.safetensors"]
    common += ["--img-size", SIZE, "--workers", 0]
    assert "`data` must have the 5 classes of the model, got 3" in failure(capsys, *common)
    (tmp_path / "classes.txt").write_text("other\nclass2\nclass1\nanother\nclass0\n")
    assert "`class_map` must be a .txt file" in failure(capsys, *common, "--class-map", tmp_path / "classes.pkl")
    assert "must end in .json or .csv" in failure(capsys, *common, "--out", tmp_path / "table.txt")
    from vit_interactions.training.evaluate import run_evaluation
    from vit_interactions.training.settings import EvaluationSettings

    settings = EvaluationSettings(
        data=image_folder,
        model="test_vit",
        checkpoint=tmp_path / "model.safetensors",
        img_size=SIZE,
        class_map=tmp_path / "classes.txt",
        workers=0,
    )
    result = run_evaluation(settings)
    config = timm.data.resolve_data_config({"img_size": SIZE}, model=model)
    loader = EvaluationLoader(open_split(image_folder, "validation"), config, CPU, batch_size=4, workers=0)
    number = torch.tensor([4, 2, 1])
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model.eval()(x), number[y], reduction="sum") for x, y in loader]
    assert result is not None
    assert result.loss == pytest.approx(float(sum(losses)) / 15, rel=1e-5)
