"""Two processes learn the same as one, stop together, and resume together."""

import os
import signal
from pathlib import Path

import pytest
import timm
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.helpers.tiny_images import SIZE, make_images, one_thread, save_teacher_weights, tiny_settings
from tests.helpers.trained import free_ports
from vit_interactions.training.log import read_rows
from vit_interactions.training.task import WindowSupervisionTask
from vit_interactions.training.teacher import WindowTeacher
from vit_interactions.training.train import TrainingResult, train
from vit_interactions.training.trainer import Trainer

# timm's datasets leave files open until they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def gradients_of(part: slice, parts: int, distributed: bool) -> dict[str, Tensor]:
    """Compute the gradients of part of a batch of four, alone or in one of two processes."""
    torch.manual_seed(0)
    student = timm.create_model("test_winft", img_size=SIZE, num_classes=4)
    teacher = WindowTeacher(timm.create_model("test_vit", img_size=SIZE), alpha=0.05)
    task = WindowSupervisionTask(student, nn.CrossEntropyLoss(), teacher=teacher).train()
    if distributed:
        task.prepare_distributed()
    images, classes = torch.randn(4, 3, SIZE, SIZE)[part], torch.arange(4)[part]
    chunks = list(zip(images.chunk(parts), classes.chunk(parts), strict=True))
    with task.no_sync():
        for x, y in chunks[:-1]:
            (task(x, y)["loss"] / parts).backward()
    x, y = chunks[-1]
    (task(x, y)["loss"] / parts).backward()
    return {name: p.grad for name, p in student.named_parameters()}


def settings(root: Path) -> dict[str, object]:
    return {
        "window_targets": "online",
        "teacher": "test_vit",
        "teacher_checkpoint": root / "teacher.safetensors",
        "alpha": 0.05,
        "hflip": 0.5,
        "ema": 0.5,
    }


def _process(rank: int, root: Path, ports: list[int]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
    torch.save(gradients_of(slice(2 * rank, 2 * rank + 2), 2, distributed=True), root / f"gradients-{rank}.pt")
    torch.distributed.destroy_process_group()

    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    chosen = tiny_settings(root / "images", **settings(root))

    def together(name: str, resume: bool = False) -> TrainingResult:
        os.environ["MASTER_PORT"] = str(ports.pop())  # a port that no earlier process group still uses
        return train(chosen, root / name, resume=resume)

    whole = together("whole")
    assert whole.first == (rank == 0)

    train_step = Trainer.train_step

    def interrupted(self: Trainer, batches: object) -> None:
        train_step(self, batches)  # type: ignore[arg-type]
        if rank == 1 and self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.train_step = interrupted  # type: ignore[method-assign, assignment]
    stopped = together("stopped")
    assert (stopped.step, stopped.signal) == (4, signal.SIGTERM), "both stop, though one was asked"
    Trainer.train_step = train_step  # type: ignore[method-assign]
    assert together("stopped", resume=True).step == whole.step == 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in two processes, and return the folder they wrote."""
    folder: Path = tmp_path_factory.mktemp("distributed")
    make_images(folder / "images")
    save_teacher_weights(folder / "teacher.safetensors")
    torch.multiprocessing.spawn(_process, args=(folder, free_ports(3)), nprocs=2)
    return folder


def test_gradients_equal_those_of_one_process(root: Path) -> None:
    first, second = (torch.load(root / f"gradients-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, gradient in gradients_of(slice(4), 1, distributed=False).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)


def test_training_equals_that_of_one_process(root: Path, tmp_path: Path) -> None:
    with one_thread():
        train(tiny_settings(root / "images", **settings(root)), tmp_path)
    alone, together = (load_file(folder / "last" / "model.safetensors") for folder in (tmp_path, root / "whole"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
    for one, other in zip(*(read_rows(f / "summary.csv") for f in (tmp_path, root / "whole")), strict=True):
        # 15 images are not a multiple of 2: the padding is not counted.
        assert one["eval_images"] == other["eval_images"] == 15
        for name in ("train_loss", "train_operations", "eval_loss", "eval_top1", "eval_operations"):
            assert other[name] == pytest.approx(one[name], rel=1e-3), name


def test_a_stop_of_one_process_stops_both_and_resumes_exactly(root: Path) -> None:
    whole, resumed = (load_file(root / name / "last" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
