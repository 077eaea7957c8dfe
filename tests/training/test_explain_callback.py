"""Fixed images are explained while a model is trained, without any effect on the training."""

import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

import vit_interactions as vi
from tests.helpers.command_line import failure, run
from tests.helpers.tiny_images import SIZE, everything, tiny_settings
from tests.helpers.trained import NoteKeeper, same_run, stop_at
from vit_interactions.training.checkpoint import load_checkpoint
from vit_interactions.training.explain_callback import ExplainCallback, as_writer, read_images
from vit_interactions.training.log import Row, read_rows
from vit_interactions.training.train import train
from vit_interactions.training.trainer import Trainer

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
GENTLE: dict[str, Any] = {"methods": ("raw_attention", "gradient_rollout", "responsive_field_size")}


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Row]] = []
        self.sizes: list[dict[str, tuple[int, int]]] = []

    def add(self, part: str, row: Row, step: int, pictures: Any) -> None:
        assert part == "explain"
        self.rows.append((step, row))
        self.sizes.append({name: picture.size for name, picture in pictures.items()})

    def close(self) -> None:
        pass


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8))


def make_model(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_vit", img_size=SIZE, num_classes=5, **options)
    return model


def trained(
    callback: Callable[[nn.Module, int], None] | None,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    amp: bool = False,
) -> list[Any]:
    """Train with dropout, drop path, mixup and accumulated gradients; return everything that the training changes."""
    model = make_model(drop_rate=0.2, drop_path_rate=0.2, attn_drop_rate=0.1).train()
    running = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    mixup, loss = Mixup(0.5, 1.0, num_classes=5), SoftTargetCrossEntropy()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    if callback:
        callback(running, 0)
    for step in range(1, 5):
        images, target = mixup(torch.rand(4, 3, SIZE, SIZE), torch.randint(0, 5, (4,)))
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss(running(images), target).backward()
            if callback:
                callback(running, step)  # at the worst place: with gradients, under autocast
        if step % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    state = optimizer.state_dict()["state"]
    return [
        *model.state_dict().values(),
        *(value for each in state.values() for value in each.values()),
        torch.get_rng_state(),
        torch.tensor(np.random.get_state()[1].astype(np.int64)),  # type: ignore[index, union-attr]
        torch.tensor(random.getstate()[1]),
        torch.tensor([module.training for module in model.modules()]),
    ]


@pytest.mark.parametrize(
    ("wrap", "amp"),
    [
        (lambda model: model, False),
        (lambda model: model, True),
        (lambda m: torch.compile(m, backend="eager"), False),
    ],
    ids=["plain", "autocast", "compiled"],
)
def test_training_is_the_same_to_the_bit(wrap: Any, amp: bool, image: Image.Image) -> None:
    kept = Kept()
    without = trained(None, wrap, amp)
    assert not all(map(torch.equal, without, trained(lambda *_: torch.rand(1), wrap, amp)))  # the test sees a draw
    found = trained(ExplainCallback([image], [kept], every=2, **GENTLE), wrap, amp)
    assert len(found) == len(without)
    assert all(map(torch.equal, without, found))
    assert [step for step, _ in kept.rows] == [0, 2, 4]


def test_numbers_are_those_of_the_images(image: Image.Image) -> None:
    kept, model = Kept(), make_model().eval()
    other = Image.new("RGB", (SIZE, SIZE), "red")
    ExplainCallback({"noise": image, "red": other}, [kept], alpha=0.2, beta=0.1, coverage=0.5, methods=())(
        model, 7
    )
    ((step, row),) = kept.rows
    transform = timm.data.create_transform(
        **{**timm.data.resolve_model_data_config(model), "input_size": (3, SIZE, SIZE)}
    )
    inputs = torch.stack([transform(each) for each in (image, other)])
    counts = vi.ResponsiveFieldSize(model, 0.2, 0.1, coverage=0.5).field(inputs).operations.tolist()
    sinks = vi.attention_sinks(model, inputs).patches.sum(1).tolist()
    assert step == 7
    assert row == {
        "operations": sum(counts) / 2,
        "fraction": sum(counts) / 2 / 16**2,
        "sinks": sum(sinks) / 2,
        "operations/noise": counts[0],
        "operations/red": counts[1],
        "sinks/noise": sinks[0],
        "sinks/red": sinks[1],
    }
    assert kept.sizes[0].keys() == {"noise", "red"}


def test_only_the_first_process_explains(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    callback = ExplainCallback([image], [kept], methods=())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (1, 0):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        callback(make_model(), rank)
    assert [step for step, _ in kept.rows] == [0]


def test_unsupported_model_is_reported_once(image: Image.Image) -> None:
    kept, model = Kept(), nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 5))
    callback = ExplainCallback([image], [kept])
    with pytest.warns(UserWarning, match=r"step 0 could not be explained: .*pretrained_cfg"):
        callback(model, 0)
    callback(model, 1)  # a second warning would be an error
    assert not kept.rows


def test_unsupported_methods_are_reported_once_and_the_others_shown(image: Image.Image) -> None:
    kept, notes = Kept(), list[str]()
    callback = ExplainCallback([image], [kept], methods=("saliency", "attention_rollout"), notify=notes.append)
    model = timm.create_model("test_resnet", num_classes=5)
    for step in range(3):
        callback(model, step)
    assert [step for step, _ in kept.rows] == [0, 1, 2]
    assert kept.rows[0][1] == dict.fromkeys(
        ("operations", "fraction", "sinks", "operations/image_1", "sinks/image_1")
    )
    assert all("training continues" in note for note in notes)
    assert any("E_O" in note for note in notes)
    assert any("attention_rollout" in note for note in notes)
    assert len(notes) <= 2


def test_a_failing_writer_stops_neither_training_nor_the_others(image: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept, notes = Kept(), list[str]()
    callback = ExplainCallback([image], [tmp_path / "file", kept], methods=(), notify=notes.append)
    for step in range(2):
        callback(make_model(), step)
    assert [step for step, _ in kept.rows] == [0, 1]
    assert len(notes) == 1
    assert "could not be written by MapFolder" in notes[0]


def test_tensorboard_and_wandb_get_numbers_and_pictures(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalars: dict[str, Any] = {}
    pictures: dict[str, Any] = {}
    logged: list[dict[str, Any]] = []

    class Board:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars[name] = value, step

        def add_image(self, name: str, values: Any, step: int, dataformats: str) -> None:
            pictures[name] = values.shape, values.dtype, step, dataformats

    class WandbRun:
        def log(self, entries: dict[str, Any]) -> None:
            logged.append(entries)

    WandbRun.__module__ = "wandb.sdk.wandb_run"
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(Image=lambda picture: ("image", picture.mode)))
    ExplainCallback({"cat": image}, [Board(), WandbRun()], alpha=0.0, methods=("raw_attention",))(make_model(), 3)
    assert scalars == {
        "explain/operations": (16.0, 3),
        "explain/fraction": (1 / 16, 3),
        "explain/sinks": (0.0, 3),
        "explain/operations/cat": (16, 3),
        "explain/sinks/cat": (0, 3),
    }
    (shape, dtype, step, order) = pictures["explain/cat"]
    assert (shape[-1], dtype, step, order) == (3, np.uint8, 3, "HWC")
    assert logged == [
        {
            "explain/step": 3,
            "explain/operations": 16.0,
            "explain/fraction": 1 / 16,
            "explain/sinks": 0.0,
            "explain/operations/cat": 16,
            "explain/sinks/cat": 0,
            "explain/cat": ("image", "RGB"),
        }
    ]


def test_wrong_arguments_raise_before_the_training(image: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`every` must be >= 1, got 0"):
        ExplainCallback([image], [tmp_path], every=0)
    with pytest.raises(ValueError, match="`images` must contain at least one, got none"):
        ExplainCallback([], [tmp_path])
    with pytest.raises(ValueError, match="`writers` must contain at least one, got none"):
        ExplainCallback([image], [])
    with pytest.raises(ValueError, match="raw_attention"):
        ExplainCallback([image], [tmp_path], methods=("raw_attentoin",))
    with pytest.raises(ValueError, match="`alpha`"):
        ExplainCallback([image], [tmp_path], alpha=2.0)
    with pytest.raises(ValueError, match="`coverage`"):
        ExplainCallback([image], [tmp_path], coverage=2.0)
    with pytest.raises(FileNotFoundError):
        ExplainCallback([tmp_path / "none.png"], [tmp_path])
    with pytest.raises(TypeError, match="`images` must be a collection of images, got one"):
        read_images(image)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`writers` must be folders, .*, got int"):
        as_writer(3)


@pytest.fixture(scope="module")
def whole(image_folder: Path, teacher_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run without explanations that uses every feature."""
    out: Path = tmp_path_factory.mktemp("plain") / "run"
    train(tiny_settings(image_folder, **everything(teacher_weights)), out)
    return out


def explained_settings(data: Path, teacher: Path) -> Any:
    return tiny_settings(data, **everything(teacher), explain_every=2, explain_method=["gradient_rollout"])


def states_equal(out: Path, other: Path) -> bool:
    ours, theirs = (load_checkpoint(folder / "checkpoint.pt") for folder in (out, other))

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)

    return all(same(ours[key], theirs[key]) for key in ("state_dict", "state_dict_ema", "optimizer", "meter"))


def explained_steps(out: Path) -> list[Any]:
    rows = [row["step"] for row in read_rows(out / "explanations" / "interactions.csv")]
    for folder in filter(Path.is_dir, (out / "explanations").iterdir()):
        assert [int(path.stem[5:]) for path in sorted(folder.iterdir())] == rows
    return rows


def test_command_trains_the_same_model(
    whole: Path, image_folder: Path, teacher_weights: Path, tmp_path: Path
) -> None:
    keeper = NoteKeeper()
    train(explained_settings(image_folder, teacher_weights), tmp_path, reporter=keeper)
    assert same_run(whole, tmp_path)
    assert states_equal(whole, tmp_path)
    assert not [note for note in keeper.notes if "could not" in note]
    assert explained_steps(tmp_path) == [0, 6, 9]  # before, after two of three epochs, at the end
    names = sorted(path.name for path in (tmp_path / "explanations").iterdir() if path.is_dir())
    assert names == ["class0_0", "class0_3", "class1_2", "class2_1"]  # four of 3 x 5


@pytest.mark.parametrize("step", [5, 6])
def test_resumed_run_writes_each_step_once(
    step: int,
    whole: Path,
    image_folder: Path,
    teacher_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = explained_settings(image_folder, teacher_weights)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert train(settings, tmp_path).step == step
    train(settings, tmp_path, resume=True)
    assert explained_steps(tmp_path) == [0, 6, 9]
    assert same_run(whole, tmp_path)


def test_killed_run_repeats_the_steps_after_its_checkpoint(
    whole: Path, image_folder: Path, teacher_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, train_step = explained_settings(image_folder, teacher_weights), Trainer.train_step

    def failing(self: Trainer, batches: Iterator[Any]) -> None:
        if self.step == 7:  # step 6 was explained after its checkpoint
            raise MemoryError
        train_step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(MemoryError):
            train(settings, tmp_path)
    assert explained_steps(tmp_path) == [0, 6]
    train(settings, tmp_path, resume=True)
    assert explained_steps(tmp_path) == [0, 6, 9]
    assert same_run(whole, tmp_path)


def test_command_line(image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "test_vit", "--img-size", SIZE, "--batch-size", 9, "--epochs", 1, "--workers", 0]
    chosen = ["--explain-every", 1, "--explain-method", "raw_attention", "--explain-method", "gmar:norm=l1"]
    # Without coverage, windows at alpha 1 contain all 256 pairs.
    own = [
        "--explain-images",
        image_folder / "val" / "class1",
        "--alpha",
        1.0,
        "--window-coverage",
        0.0,
        "--beta",
        0.0,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ResourceWarning)
        assert run("train", image_folder, "--out", tmp_path / "run", *options, *chosen, *own) == 0
    rows = read_rows(tmp_path / "run" / "explanations" / "interactions.csv")
    assert [row["step"] for row in rows] == [0, 3]
    assert rows[1]["operations/4"] == 16
    assert "could not" not in capsys.readouterr().err
    common = ["train", image_folder, "--out", tmp_path / "none", *options]
    assert "`explain_every`, got none" in failure(capsys, *common, "--explain-method", "raw_attention")
    assert "Did you mean" in failure(capsys, *common, "--explain-every", 1, "--explain-method", "raw_attentoin")
    assert "`norm` of gmar" in failure(capsys, *common, "--explain-every", 1, "--explain-method", "gmar:norm=l3")
    assert not (tmp_path / "none").exists()
