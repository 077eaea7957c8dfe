"""The parts of a training, one by one."""

import dataclasses
import math
import os
import pickle
import random
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import vit_interactions as vi
from tests.helpers.tiny_images import (
    CLASSES,
    SIZE,
    TRAIN,
    VAL,
    make_images,
    one_thread,
    save_teacher_weights,
    tiny_settings,
)
from vit_interactions.cli.main import main
from vit_interactions.figures.training import training_figure
from vit_interactions.training.checkpoint import load_checkpoint, save_checkpoint
from vit_interactions.training.classifiers import create_classifier, load_classifier
from vit_interactions.training.data.datasets import open_datasets, open_split
from vit_interactions.training.data.loaders import (
    EvaluationLoader,
    TrainingLoader,
    batch_size_per_process,
    training_transform,
)
from vit_interactions.training.data.sampling import SeededDataset, TrainingBatchSampler
from vit_interactions.training.data.unreadable import TransformedImages
from vit_interactions.training.evaluate import evaluate
from vit_interactions.training.export import export_model
from vit_interactions.training.factory import create_teacher, input_config
from vit_interactions.training.interruption import interruption
from vit_interactions.training.log import CsvLog, RunLog, TensorBoard, WeightsAndBiases, read_rows
from vit_interactions.training.meter import Meter
from vit_interactions.training.presets import PRESETS, apply_preset
from vit_interactions.training.settings import MAY_CHANGE, TrainingSettings
from vit_interactions.utilities.processes import Process
from vit_interactions.utilities.seeds import seeded

# timm's datasets leave it to the interpreter to close the files they have read.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
CPU = Process(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher_weights(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command line, which must end in one line of error, and return that line."""
    before = sys.argv
    sys.argv = ["vit-interactions", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in shown
    return " ".join(shown.split())


# Order and random numbers.


def test_an_epoch_takes_each_picture_at_most_once_in_an_order_of_its_own() -> None:
    batches = TrainingBatchSampler(23, 5, seed=3)
    epochs = []
    for batches.epoch in range(3):
        keys = [key for batch in batches for key in batch]
        assert {epoch for epoch, _ in keys} == {batches.epoch}
        indices = [index for _, index in keys]
        assert len(indices) == len(set(indices)) == 20
        assert set(indices) <= set(range(23))
        epochs.append(indices)
    assert epochs[0] != epochs[1] != epochs[2]
    batches.epoch = 1
    assert [index for batch in batches for _, index in batch] == epochs[1]
    assert [i for b in TrainingBatchSampler(23, 5, seed=4) for _, i in b] != epochs[0]


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_step_is_the_same_pictures_however_it_is_divided(world: int, parts: int) -> None:
    whole = [set(batch) for batch in TrainingBatchSampler(50, 8)]
    ranks = [
        list(TrainingBatchSampler(50, 8 // (world * parts), parts=parts, rank=rank, world=world))
        for rank in range(world)
    ]
    for step, wanted in enumerate(whole):
        found = [key for rank in ranks for batch in rank[step * parts : (step + 1) * parts] for key in batch]
        assert len(found) == 8
        assert set(found) == wanted


def test_an_epoch_is_entered_at_any_step() -> None:
    batches = TrainingBatchSampler(50, 4, parts=2)
    whole = list(batches)
    batches.first_step = 4
    assert list(batches) == whole[8:]
    assert len(batches) == len(whole) - 8
    with pytest.raises(ValueError, match=r"at most the number of training images, 7, got 8"):
        TrainingBatchSampler(7, 4, parts=2)


class Draws(Dataset[tuple[float, float, float]]):
    """Give what each generator draws."""

    def __getitem__(self, index: int) -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def __len__(self) -> int:
        return 6


def test_what_a_picture_draws_depends_on_seed_epoch_and_picture_only() -> None:
    dataset = SeededDataset(Draws(), seed=1)
    keys = [[(0, 0), (0, 1)], [(1, 0), (0, 0)]]
    drawn = []
    for workers in (0, 2):
        random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
        loader = DataLoader(dataset, batch_sampler=keys, num_workers=workers)
        drawn.append([torch.stack(batch) for batch in loader])
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    first, second = drawn[0]
    assert torch.equal(first[:, 0], second[:, 1])
    different = torch.stack([first[:, 0], first[:, 1], second[:, 0]])
    assert len(different.unique()) == 9
    assert SeededDataset(Draws(), seed=2)[0, 0] != dataset[0, 0]


def test_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    def draw() -> tuple[float, float, float]:
        return Draws()[0]

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = [draw(), draw()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = draw()
    with seeded(9):
        draw()
    assert [first, draw()] == expected


def test_a_step_must_be_divisible(pictures: Path) -> None:
    assert batch_size_per_process(tiny_settings(pictures, batch_size=24, accumulate=3), world=2) == 4
    with pytest.raises(ValueError, match=r"`batch_size` must be a multiple of 6, .* got 8"):
        batch_size_per_process(tiny_settings(pictures, accumulate=3), world=2)
    with pytest.raises(ValueError, match="must give even batches for `mixup` and `cutmix`, got 3"):
        batch_size_per_process(tiny_settings(pictures, batch_size=6, accumulate=2, mixup=0.5), world=1)


def test_batches_are_timms(pictures: Path) -> None:
    """The loader normalises as timm's: without augmentation, a batch is the pictures minus mean over std."""
    settings = tiny_settings(pictures, batch_size=4, scale=1.0, hflip=0.0, color_jitter=0.0)
    config = {"input_size": (3, 40, 48), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    dataset = open_split(pictures, "train")
    samples = TransformedImages(dataset, training_transform(settings, config))
    loader = TrainingLoader(samples, settings, config, CPU)
    images, classes, weight = next(loader.batches(0, 0))
    assert weight == 1
    order = next(iter(TrainingBatchSampler(CLASSES * TRAIN, 4)))
    for image, number, (_, index) in zip(images, classes, order, strict=True):
        plain = open_split(pictures, "train")
        picture, expected_class = plain[index]
        pixels = torch.from_numpy(np.asarray(picture.resize((48, 40))).copy()).float() / 255
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        assert number == expected_class
        # The full channel of the class stays full under any crop; the rest is noise.
        channel = int(number)
        torch.testing.assert_close(
            image[channel], torch.full((40, 48), float((1 - mean[channel]) / std[channel])), rtol=1e-5, atol=1e-5
        )
        assert pixels[..., channel].eq(1).all()
    assert loader.steps == CLASSES * TRAIN // 4


# Settings and recipes.


def test_presets_are_the_papers() -> None:
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


def test_what_is_given_overrides_the_preset() -> None:
    options = apply_preset("paper-imagenet", {"lr": 0.5, "epochs": None, "pretrained": False, "batch_size": 8})
    assert (options["lr"], options["epochs"], options["pretrained"], options["batch_size"]) == (0.5, 15, False, 8)
    assert "pretrained" not in apply_preset("paper-cub", {"initial_checkpoint": Path("start")})
    assert "steps" not in apply_preset("paper-cub", {"epochs": 3})
    # The same recipe for the plain ViT beside it.
    assert "window_targets" not in apply_preset("paper-imagenet", {"model": "vit_base_patch16_224.augreg_in21k"})
    assert apply_preset(None, {"lr": 0.5, "opt": None}) == {"lr": 0.5}
    with pytest.raises(ValueError, match="`preset` must be one of paper-imagenet, paper-cub, got 'paper'"):
        apply_preset("paper", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "`model` must be given"),
        ({"batch_size": 0}, "`batch_size` must be >= 1, got 0"),
        ({"lr": 0.0}, "`lr` must be finite and > 0, got 0.0"),
        ({"lr": math.nan}, "`lr` must be finite and > 0"),
        ({"momentum": 1.5}, r"`momentum` must lie in \[0, 1\], but got 1.5"),
        ({"sched": "cosinus"}, "`sched` must be one of 'cosine', 'linear', 'constant', but got 'cosinus'"),
        ({"window_fill": "inf"}, "`window_fill` must be one of 'zero', '-inf', but got 'inf'"),
        ({"window_targets": "online"}, "`window_targets` online must come with a `teacher`"),
        ({"window_targets": "cached"}, "`window_targets` cached and `window_store` must come together"),
        ({"window_store": Path("s")}, "`window_targets` cached and `window_store` must come together"),
        (
            {"window_targets": "cached", "window_store": Path("s"), "mixup": 0.5},
            "`window_targets` must be online or none with `mixup` or `cutmix`, got cached",
        ),
        (
            {"teacher_checkpoint": Path("t")},
            "`teacher_checkpoint` must come with the name of its model as `teacher`",
        ),
        (
            {"pretrained": True, "initial_checkpoint": Path("s")},
            "Only one of `pretrained` and `initial_checkpoint` must be given",
        ),
        ({"steps": 5, "warmup_steps": 5}, "`warmup_steps` must be less than `steps`, 5, got 5"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_settings(Path("x"), **changes)


def test_what_may_change_at_resumption_are_settings() -> None:
    assert {field.name for field in dataclasses.fields(TrainingSettings)} > MAY_CHANGE


def test_models_and_windows_that_do_not_go_together(
    pictures: Path, teacher_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", pictures, "--img-size", SIZE, "--batch-size", 8, "--workers", 0, "--out", tmp_path / "out"]
    teacher = ["--teacher", "test_vit", "--teacher-checkpoint", teacher_weights]
    online = ["--window-targets", "online"]
    assert "`teacher` must be given for AdaptiveWindowViT" in failure(capsys, *common, "--model", "test_awd_vit")
    shown = failure(capsys, *common, "--model", "test_awd_vit", *teacher, *online)
    assert "`window_targets` must be none for AdaptiveWindowViT" in shown
    shown = failure(capsys, *common, "--model", "test_vit", *teacher, *online)
    assert "`window_targets` must be none for VisionTransformer, which has no windows" in shown
    assert "`teacher` must not be given" in failure(capsys, *common, "--model", "test_winft", *teacher)
    shown = failure(capsys, *common, "--model", "test_vit", "--window-fill", "zero")
    assert "`model` test_vit does not take" in shown
    shown = failure(capsys, *common, "--model", "test_winft", "--device", "cuda:99")
    assert "`device` must be auto or a device of this machine" in shown
    assert "Did you mean" in failure(capsys, *common, "--model", "winft_smal_patch16_224")
    assert not (tmp_path / "out").exists()


# Where pictures come from.


def test_classes_are_numbered_as_in_training(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    for file in (data / "val" / "class0").iterdir():
        file.unlink()
    (data / "val" / "class0").rmdir()
    sources = open_datasets(data)
    assert (sources.classes, sources.names) == (3, ("class0", "class1", "class2"))
    assert sources.evaluation is not None
    assert [sources.evaluation[index][1] for index in range(len(sources.evaluation))] == [1] * VAL + [2] * VAL
    (data / "val" / "class2").rename(data / "val" / "dogs")
    with pytest.raises(
        ValueError, match=r"`data` must have classes of the split 'train' only, got dogs. Make the names agree"
    ):
        open_datasets(data)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"`data` must be a folder of images, got .*gone"):
        open_datasets(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no split 'train', .* must have one folder of images per class"):
        open_datasets(tmp_path / "empty")
    flat = make_images(tmp_path / "data") / "train"
    with pytest.raises(ValueError, match="must have folders train and validation"):
        open_datasets(flat)
    assert open_datasets(flat, evaluation="").evaluation is None
    with pytest.raises(ValueError, match="`num_classes` must be >= 3, got 2"):
        open_datasets(flat, evaluation="", classes=2)
    with pytest.raises(ValueError, match=r"`dataset` must be empty or start with one of torch, .* got 'folder/x'"):
        open_datasets(flat, kind="folder/x")


@pytest.mark.parametrize("kind", ["", "torch/image_folder"])
def test_no_part_stands_for_one_that_is_missing(kind: str, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    for split in ("test", "trian"):
        with pytest.raises(ValueError, match=rf"has no split '{split}'.* got train.class0.0.png"):
            open_split(data, split, kind=kind)
    assert len(open_split(data / "val", "validation", kind=kind)) == CLASSES * VAL
    shutil.rmtree(data / "val")
    with pytest.raises(ValueError, match=r"has no split 'validation'.* got train.class0.0.png"):
        open_datasets(data, kind=kind)


def test_a_source_of_torchvision(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data")
    sources = open_datasets(data, kind="torch/image_folder", training="train", evaluation="val")
    assert (sources.classes, len(sources.training)) == (3, CLASSES * TRAIN)
    assert sources.evaluation is not None
    assert len(sources.evaluation) == CLASSES * VAL


# Models.


def test_weights_of_another_input_size_are_resized_as_timm_does(tmp_path: Path) -> None:
    small = timm.create_model("test_vit", num_classes=3, img_size=SIZE)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    large, notes = create_classifier("test_winft", 3, checkpoint=tmp_path / "small.safetensors", img_size=96)
    assert notes == []
    resized = timm.layers.resample_abs_pos_embed(small.pos_embed, new_size=[6, 6])
    torch.testing.assert_close(large.pos_embed, resized)  # type: ignore[arg-type]
    trained = load_classifier("test_winft", tmp_path / "small.safetensors", img_size=96)
    assert torch.equal(trained.pos_embed, large.pos_embed)  # type: ignore[arg-type]
    assert not trained.training


def test_an_exported_model_is_loaded_by_timm(tmp_path: Path) -> None:
    model = timm.create_model("test_winft", num_classes=3, img_size=SIZE, window_fill="-inf").eval()
    config = {**timm.data.resolve_data_config({"img_size": SIZE}, model=model), "mean": (0.1, 0.2, 0.3)}
    for _ in range(2):  # the second takes the place of the first
        arguments = {"img_size": SIZE, "window_fill": "-inf"}
        export_model(model, tmp_path, config=config, arguments=arguments, class_names=("a", "b", "c"))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(loaded(images), model(images))
    assert loaded.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert tuple(timm.data.resolve_data_config({}, model=loaded)["input_size"]) == (3, SIZE, SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_teacher_of_another_normalisation_sees_what_it_was_trained_on(
    pictures: Path, teacher_weights: Path
) -> None:
    settings = tiny_settings(
        pictures, teacher="test_vit", teacher_checkpoint=teacher_weights, window_targets="online", alpha=0.05
    )
    student = {"input_size": (3, SIZE, SIZE), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    own = timm.create_model("test_vit", num_classes=5, img_size=SIZE)
    own.load_state_dict(load_file(teacher_weights))
    wanted = {name: torch.tensor(own.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")}
    pixels = torch.rand(2, 3, SIZE, SIZE)
    mean, std = (torch.tensor(student[name]).view(3, 1, 1) for name in ("mean", "std"))
    teacher = create_teacher(settings, student, CPU)
    assert teacher is not None
    assert isinstance(teacher.model, nn.Sequential)
    found = teacher((pixels - mean) / std)
    expected = vi.ResponsiveFieldSize(own.eval(), 0.05, 0.2).field((pixels - wanted["mean"]) / wanted["std"])
    assert torch.equal(found.mask, expected.mask)
    assert not torch.equal(found.mask, teacher((pixels - wanted["mean"]) / wanted["std"]).mask)


def test_a_teacher_is_built_for_the_students_images(pictures: Path, tmp_path: Path) -> None:
    weights = timm.create_model("vit_tiny_patch16_224", depth=12, num_classes=3).state_dict()
    save_file(weights, tmp_path / "vit.safetensors")
    settings = tiny_settings(
        pictures,
        img_size=None,
        window_targets="online",
        teacher="vit_tiny_patch16_224",
        teacher_checkpoint=tmp_path / "vit.safetensors",
    )
    config = input_config(timm.create_model("test_winft"), settings)
    teacher = create_teacher(settings, config, CPU)
    assert teacher is not None
    assert teacher(torch.zeros(1, 3, 160, 160)).grid == (10, 10)


# Evaluation.


class Fixed(nn.Module):
    """A classifier that reads its scores off the image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :8]


def test_evaluation_by_hand() -> None:
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


def test_interactions_are_counted_by_what_the_model_is(teacher_weights: Path) -> None:
    images, classes = torch.rand(3, 3, SIZE, SIZE), torch.tensor([0, 1, 2])
    batches = [(images[:2], classes[:2]), (images[2:], classes[2:])]
    plain = timm.create_model("test_vit", img_size=SIZE).eval()
    assert evaluate(plain, batches).operations == 256.0

    winft = timm.create_model("test_winft", img_size=SIZE).eval()
    with vi.models.record_windows(winft) as record, torch.no_grad():
        winft(images)
    counts = [sum(int(mask[i].sum()) for mask in record.masks) / len(record.masks) for i in range(3)]
    assert evaluate(winft, batches).operations == pytest.approx(sum(counts) / 3)

    vit = load_classifier("test_vit", teacher_weights, img_size=SIZE)
    adaptive = timm.create_model("test_awd_vit", img_size=SIZE).eval()
    from vit_interactions.training.teacher import WindowTeacher

    adaptive.set_teacher(WindowTeacher(vit, 0.05, 0.2))
    fields = vi.ResponsiveFieldSize(vit, 0.05, 0.2).field(images)
    result = evaluate(adaptive, batches)
    assert result.operations == pytest.approx(fields.operations.float().mean().item())
    assert result.operations is not None
    assert result.operations < 256 == result.pairs

    other = timm.create_model("test_resnet").eval()
    assert evaluate(other, batches).operations is None


def test_a_model_of_other_classes_is_evaluated_by_a_class_map(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = timm.create_model("test_vit", num_classes=5, img_size=SIZE)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    common = ["evaluate", pictures, "--model", "test_vit", "--checkpoint", tmp_path / "model.safetensors"]
    common += ["--img-size", SIZE, "--workers", 0]
    assert "`data` must have the 5 classes of the model, got 3" in failure(capsys, *common)
    (tmp_path / "classes.txt").write_text("other\nclass2\nclass1\nanother\nclass0\n")
    assert "`class_map` must be a .txt file" in failure(capsys, *common, "--class-map", tmp_path / "classes.pkl")
    assert "must end in .json or .csv" in failure(capsys, *common, "--out", tmp_path / "table.txt")
    from vit_interactions.training.evaluate import run_evaluation
    from vit_interactions.training.settings import EvaluationSettings

    settings = EvaluationSettings(
        data=pictures,
        model="test_vit",
        checkpoint=tmp_path / "model.safetensors",
        img_size=SIZE,
        class_map=tmp_path / "classes.txt",
        workers=0,
    )
    result = run_evaluation(settings)
    config = timm.data.resolve_data_config({"img_size": SIZE}, model=model)
    loader = EvaluationLoader(open_split(pictures, "validation"), config, CPU, batch_size=4, workers=0)
    number = torch.tensor([4, 2, 1])
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model.eval()(x), number[y], reduction="sum") for x, y in loader]
    assert result is not None
    assert result.loss == pytest.approx(float(sum(losses)) / 15, rel=1e-5)


# Files.


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'harm'}",)

    path = tmp_path / "checkpoint.pt"
    torch.save({"step": 1, "optimizer": Harm()}, path)
    with pytest.raises(ValueError, match="`resume` needs a checkpoint of `vit-interactions train`"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="`resume` needs a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()
    save_checkpoint(path, {"weights": torch.ones(2)})
    with pytest.raises(ValueError, match="got another file or an older format"):
        load_checkpoint(path)
    save_checkpoint(path, {"step": 3, "weights": torch.ones(2)})
    assert load_checkpoint(path)["step"] == 3


def test_logs_go_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, 0)
    for step in (2, 4, 6):
        log.add("step", {"step": step, "loss": 1 / step})
    log.add("epoch", {"epoch": 0, "step": 6, "eval_top1": None})
    before = (tmp_path / "log.csv").read_text()
    assert read_rows(tmp_path / "summary.csv") == [{"epoch": 0.0, "step": 6.0, "eval_top1": None}]
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,0.1")  # not finished
    RunLog(tmp_path, 6, 1)
    assert (tmp_path / "log.csv").read_text() == before
    RunLog(tmp_path, 4, 0).add("step", {"step": 6, "loss": 1 / 6})
    assert (tmp_path / "log.csv").read_text() == before
    assert read_rows(tmp_path / "summary.csv") == []
    assert read_rows(tmp_path / "gone.csv") == []
    CsvLog(tmp_path / "empty.csv").path.write_text("ste")
    CsvLog(tmp_path / "empty.csv").cut(3)
    assert not (tmp_path / "empty.csv").exists()


def test_means_are_those_of_all_batches() -> None:
    meter, other = Meter(), Meter()
    meter.add({"loss": torch.tensor(1.0), "operations": torch.tensor([1.0, 3.0])})
    meter.add({"loss": torch.tensor(4.0), "operations": torch.tensor([5.0, 5.0])})
    assert meter.take("row") == {"loss": 2.5, "operations": 3.5}
    other.load_state_dict(meter.state_dict())
    for one in (meter, other):
        one.add({"loss": torch.tensor(1.0), "operations": torch.tensor([0.0, 0.0])})
        assert one.mean("row") == {"loss": 1.0, "operations": 0.0}
        assert one.mean("epoch") == {"loss": 2.0, "operations": pytest.approx(7 / 3)}
    meter.add({"loss": torch.tensor(math.inf), "operations": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"numbers of a step must be finite, got loss inf, operations 0.0"):
        meter.state_dict()


def test_a_second_interrupt_ends_at_once() -> None:
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


# Loggers that need not be installed.


def test_loggers_that_are_not_installed_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="`tensorboard` needs a package: pip install tensorboard"):
        TensorBoard(tmp_path, 0)
    with pytest.raises(ImportError, match="`wandb` needs a package: pip install wandb"):
        WeightsAndBiases(tmp_path, "project", {})


def test_loggers_get_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Board:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("board", Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def close(self) -> None:
            calls.append("closed")

    class WandbRun:
        id = "abc"

        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append((numbers, step))

        def finish(self) -> None:
            calls.append("finished")

    def init(**options: Any) -> WandbRun:
        calls.append((options["project"], options["id"], options["resume"], options["config"]))
        return WandbRun()

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Board))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    log = RunLog(
        tmp_path, 7, 0, [TensorBoard(tmp_path / "tb", 7), WeightsAndBiases(tmp_path, "project", {"lr": 0.1})]
    )
    log.add("step", {"step": 8, "loss": 2.0})
    log.add("epoch", {"epoch": 0, "step": 8, "eval_top1": None})
    log.close()
    WeightsAndBiases(tmp_path, "project", {"lr": 0.1})
    assert calls == [
        ("board", "tb", 7),
        ("project", None, None, {"lr": 0.1}),
        ("step/loss", 2.0, 8),
        ({"step/loss": 2.0}, 8),
        ("epoch/epoch", 0, 8),
        ({"epoch/epoch": 0, "epoch/eval_top1": None}, 8),
        "closed",
        "finished",
        ("project", "abc", "allow", {"lr": 0.1}),
    ]


# The figure.


def test_the_curves_are_the_rows() -> None:
    steps = [{"step": 1.0, "loss": 3.0, "lr": 0.1}, {"step": 2.0, "loss": 2.0, "lr": 0.05}]
    epochs = [{"step": 2.0, "eval_loss": 1.5, "eval_top1": 60.0, "eval_top5": None}]
    figure = training_figure(steps, epochs, "a $title$")
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["Loss", "Accuracy, %", "Learning rate"]
    points = [line.get_xydata().tolist() for line in panels["Loss"].get_lines()]
    assert points == [[[1.0, 3.0], [2.0, 2.0]], [[2.0, 1.5]]]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="must hold numbers of a training, but are empty"):
        training_figure([], [])
