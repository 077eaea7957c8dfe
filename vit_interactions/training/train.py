"""Train a timm classifier in one or many processes, with exact resume and clean stops."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isnan
from pathlib import Path
from typing import Any

from vit_interactions.models.trained_windows import WINDOW_SETTINGS
from vit_interactions.training import factory
from vit_interactions.training.checkpoint import ADVICE, check_fields, load_checkpoint, save_checkpoint
from vit_interactions.training.data.loaders import Batch
from vit_interactions.training.data.unreadable import describe_unreadable, merge_unreadable, skipped_files
from vit_interactions.training.evaluate import Evaluation, evaluate
from vit_interactions.training.export import export_model, repair_export
from vit_interactions.training.fingerprint import check_fingerprint, run_fingerprint
from vit_interactions.training.interruption import Interruption, interruption
from vit_interactions.training.log import RunLog, Writer, open_tensorboard, open_wandb
from vit_interactions.training.reporter import Reporter
from vit_interactions.training.settings import TrainingSettings, check_resumable
from vit_interactions.training.trainer import Trainer
from vit_interactions.utilities.files import remove_partials
from vit_interactions.utilities.json_files import DamagedFileError, read_json, write_json
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.processes import Process, all_gather, broadcast, process_group
from vit_interactions.utilities.seeds import seed_everything, seed_of

CHECKPOINT, SETTINGS, EXPLANATIONS = "checkpoint.pt", "settings.json", "explanations"


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training run.

    Attributes:
        step: number of finished steps.
        total: number of steps of the whole run.
        signal: number of the signal that stopped the run; 0 if it is finished.
        evaluation: the last one; None if this process made none.
        first: True in the process that wrote the files.
    """

    step: int
    total: int
    signal: int
    evaluation: Evaluation | None
    first: bool


def train(
    settings: TrainingSettings, out: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> TrainingResult:
    """Train a model, and write settings, logs, checkpoint, and the last and the best model to a folder.

    With `resume`, an interrupted run continues from its last checkpoint. On the CPU, with the same number of processes
    and threads, it ends in exactly the weights of an uninterrupted run.

    Args:
        settings: model, data and hyperparameters.
        out: the folder.
        resume: continue the run in `out`, or start it if there is none.
        reporter: receives progress, in the first process.

    Raises:
        ValueError: settings that do not fit the data, the model or the run to resume; numbers that are not finite.
        BlockingIOError: another run is writing to `out`.
        OSError: files that are missing or cannot be written.
    """
    with process_group(settings.device) as process, locked(out, first=process.first), interruption() as stop:
        state = broadcast(read_run(out, settings, resume) if process.first else None)
        if reporter is None or not process.first:
            reporter = Reporter()
        return Run(settings, out, process, state, stop, reporter).finish()


class Run:
    """One process of a training run."""

    def __init__(
        self,
        settings: TrainingSettings,
        out: Path,
        process: Process,
        state: dict[str, Any] | None,
        stop: Interruption,
        reporter: Reporter,
    ) -> None:
        """Open the data, create the models, and load the state if `read_run` returned one.

        Raises:
            ValueError: settings that do not fit the data, the model or the state.
        """
        self._settings, self._out, self._process = settings, out, process
        self._stop, self._reporter = stop, reporter
        seed_everything(seed_of(settings.seed))
        datasets = factory.create_datasets(settings)
        self._class_names = datasets.names
        student, notes = factory.create_student(settings, datasets.classes, process, weights=state is None)
        self._config = config = factory.input_config(student, settings)
        teacher = factory.create_teacher(settings, config, process)
        self._fingerprint = run_fingerprint(settings, datasets, student, config, teacher)
        self._train_batches = factory.create_training_loader(student, datasets, settings, config, process)
        self._eval_batches = factory.create_evaluation_loader(datasets, settings, config, process)
        self._epoch_steps = self._train_batches.steps
        self.total = settings.steps or settings.epochs * self._epoch_steps
        self.trainer = Trainer(student, settings, process, self.total, teacher)
        self._explained = factory.explained_images(settings, datasets, student)
        self._evaluation: Evaluation | None = None
        self._evaluated, self._best, self._resumed_at = 0, -1.0, 0
        self._best_files: dict[str, str] = {}
        for note in [*notes, *skipped_files(datasets.training), *skipped_files(datasets.evaluation)]:
            reporter.note(f"note: {note}")
        if state is not None:
            self._resume(state)
        self.trainer.distribute()
        if process.first:
            self._open_folder()

    def _resume(self, state: dict[str, Any]) -> None:
        if state["epoch_steps"] != self._epoch_steps:
            raise ValueError(
                f"`data` must be the images that the run started with, {state['epoch_steps']} steps per epoch, got "
                f"{self._epoch_steps}."
            )
        check_fingerprint(state["fingerprint"], self._fingerprint)
        path = self._out / CHECKPOINT
        if state["step"] > self.total:
            raise DamagedFileError(f"{path}: `step` must be in [0, {self.total}], got {state['step']}", ADVICE)
        self.trainer.check_state_dict(path, state)
        self.trainer.load_state_dict(state)
        self._evaluated, self._best, self._best_files = state["evaluated"], state["best"], state["best_files"]
        self._train_batches.unreadable.update(state["unreadable"])
        self._resumed_at = self.trainer.step
        self._reporter.note(f"resumed at step {self.trainer.step} of {self.total}")

    def _open_folder(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        # Without settings, the folder does not belong to a run yet, and its partial files are not ours to remove.
        if (self._out / SETTINGS).exists():
            for folder in (self._out, self._out / "last", self._out / "best"):
                remove_partials(folder)
        write_json(self._out / SETTINGS, self._settings.as_json())
        writers: list[Writer] = []
        if self._settings.tensorboard:
            writers.append(open_tensorboard(self._out / "tensorboard", self.trainer.step))
        if self._settings.wandb is not None:
            writers.append(open_wandb(self._out, self._settings.wandb, self._settings.as_json()))
        epochs = -(-self._evaluated // self._epoch_steps)
        self._log = RunLog(self._out, self.trainer.step, epochs, writers)
        if self._explained:
            self._callback = factory.create_callback(
                self._settings, self._explained, self._config, self._out / EXPLANATIONS, writers, self._note
            )

    def finish(self) -> TrainingResult:
        """Train from the current step to the end, or until a signal asks to stop."""
        try:
            if self.trainer.step == 0:
                self._explain()
            while self._epoch_ended() or self.trainer.step < self.total:
                completed = self._end_epoch() if self._epoch_ended() else self._train_epoch()
                if not completed:
                    return self._result(self._stop.agreed(self._process.device))
            return self._result(0)
        finally:
            if self._process.first:
                self._log.close()

    def _result(self, signal_number: int) -> TrainingResult:
        self._save()
        step, total = self.trainer.step, self.total
        if step == self._resumed_at == total and self._process.first:
            # The run was finished before; its models may have been damaged since.
            self._export("last")
            repair_export(self._out / "best", self._best_files, self._out / "last")
        if signal_number:
            name = signal.Signals(signal_number).name
            self._reporter.note(f"stopped by {name} after step {step} of {total}; resume with --resume")
        return TrainingResult(step, total, signal_number, self._evaluation, self._process.first)

    def _epoch_ended(self) -> bool:
        """Return True if an epoch, or the last part of one, has been trained but not evaluated."""
        step = self.trainer.step
        return step > self._evaluated and (step % self._epoch_steps == 0 or step == self.total)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch; return False if asked to stop."""
        trainer, settings = self.trainer, self._settings
        epoch, first = divmod(trainer.step, self._epoch_steps)
        last = min(self._epoch_steps, first + self.total - trainer.step)
        trainer.task.train()
        batches = self._train_batches.batches(epoch, first)
        since = time.perf_counter(), trainer.step
        for _ in range(first, last):
            trainer.train_step(batches)
            self._reporter.progress(trainer.step, self.total, "")
            if trainer.step % settings.log_every == 0 or trainer.step == self.total:
                self._log_steps(epoch, *since)
                since = time.perf_counter(), trainer.step
            if self._stop_requested():
                return False
            if trainer.step % settings.checkpoint_every == 0:
                self._save()
        return True

    def _log_steps(self, epoch: int, start: float, first: int) -> None:
        """Log the means of the steps since the last row."""
        step, means = self.trainer.step, self.trainer.meter.take("row")
        rate = (step - first) * self._settings.batch_size / (time.perf_counter() - start)
        if self._process.first:
            numbers = {**means, "lr": self.trainer.lr, "images_per_second": rate}
            self._log.add("step", {"step": step, "epoch": epoch, **numbers})
        text = f"{describe_loss(means)}, {rate:.{int(rate < 10)}f} images/s"
        self._reporter.progress(step, self.total, text)

    def _end_epoch(self) -> bool:
        """Evaluate, and write the results; return False if asked to stop."""
        self._save()
        trainer = self.trainer
        epoch = (trainer.step - 1) // self._epoch_steps
        due = (epoch + 1) % self._settings.eval_every == 0 or trainer.step == self.total
        if due and self._eval_batches is not None:
            # Processes can agree to stop only where each of them has the same number of batches.
            loader = self._eval_batches
            batches = until_stopped(loader, self._stop_requested) if loader.alike else iter(loader)
            model = trainer.model.eval()
            try:
                self._evaluation = evaluate(
                    model, batches, unreadable=loader.unreadable, autocast=trainer.autocast
                )
            except StopRequested:
                return False
        every = self._settings.explain_every
        if every and ((epoch + 1) % every == 0 or trainer.step == self.total):
            self._explain()
        self._write_epoch(epoch, self._evaluation if due else None)
        self._evaluated = trainer.step
        return True

    def _explain(self) -> None:
        """Explain the images, in the first process only, while the others wait."""
        if self._explained and self._process.first:
            self._callback(self.trainer.model, self.trainer.step)

    def _note(self, text: str) -> None:
        self._reporter.note(f"note: {text}")

    def _stop_requested(self) -> bool:
        return bool(self._stop.agreed(self._process.device))

    def _write_epoch(self, epoch: int, evaluation: Evaluation | None) -> None:
        """Write the numbers and the model of an epoch."""
        means = self.trainer.meter.take("epoch")
        unreadable = self._gather_unreadable()
        self._train_batches.unreadable.clear()
        if isnan(means["loss"]):
            raise ValueError(
                f"`data` must have training images that can be read, got none in epoch {epoch}: "
                f"{describe_unreadable(unreadable)}."
            )
        if unreadable:
            self._reporter.note(f"epoch {epoch}: of the training images, {describe_unreadable(unreadable)}")
        if not self._process.first:
            return
        row: dict[str, float | int | None] = {"epoch": epoch, "step": self.trainer.step}
        row |= {f"train_{name}": value for name, value in means.items()}
        if self._eval_batches is not None:
            results = {} if evaluation is None else evaluation.as_row()
            row |= {f"eval_{field.name}": results.get(field.name) for field in fields(Evaluation)}
        self._log.add("epoch", {**row, "lr": self.trainer.lr})
        self._export("last")
        if evaluation is not None:
            self._reporter.note(f"epoch {epoch}: {evaluation}")
            if evaluation.top1 > self._best:
                self._best = evaluation.top1
                self._best_files = self._export("best")

    def _export(self, name: str) -> dict[str, str]:
        settings = self._settings
        windows = {name: getattr(settings, name) for name in WINDOW_SETTINGS}
        return export_model(
            self.trainer.model,
            self._out / name,
            config=self._config,
            arguments=factory.model_options(self._settings),
            class_names=self._class_names,
            windows=windows if self._fingerprint["window_source"] else None,
        )

    def _save(self) -> None:
        # In all processes, because these two gather numbers from each.
        state, unreadable = self.trainer.state_dict(), self._gather_unreadable()
        if self._process.first:
            own = {
                "evaluated": self._evaluated,
                "best": self._best,
                "best_files": self._best_files,
                "epoch_steps": self._epoch_steps,
                "fingerprint": self._fingerprint,
                "arch": self._settings.model,
                "settings": self._settings.as_json(),
                "unreadable": unreadable,
            }
            save_checkpoint(self._out / CHECKPOINT, {**state, **own})

    def _gather_unreadable(self) -> dict[str, str]:
        """Return the unreadable training images of this epoch, of all processes."""
        return merge_unreadable(all_gather(self._train_batches.unreadable))


class StopRequested(Exception):
    """A signal asked to stop during an evaluation."""


def until_stopped(batches: Iterable[Batch], stop_requested: Callable[[], bool]) -> Iterator[Batch]:
    """Yield batches, and raise StopRequested as soon as `stop_requested` returns True."""
    for batch in batches:
        if stop_requested():
            raise StopRequested
        yield batch


def describe_loss(means: Mapping[str, float]) -> str:
    """Describe a mean loss, and its parts if it has any.

    Example:
        >>> describe_loss({"loss": 2.5, "classification_loss": 0.5, "window_loss": 2.0})
        'loss 2.500 (classes 0.500, windows 2.000)'
    """
    text = f"loss {means['loss']:.3f}"
    if "window_loss" not in means:
        return text
    return f"{text} (classes {means['classification_loss']:.3f}, windows {means['window_loss']:.3f})"


def read_run(out: Path, settings: TrainingSettings, resume: bool) -> dict[str, Any] | None:
    """Read the checkpoint of the run in a folder; return None if there is no run yet.

    Raises:
        ValueError: a run that is not to be resumed, has other settings, or is damaged.
    """
    if not (out / SETTINGS).exists():
        if (out / CHECKPOINT).exists():
            raise DamagedFileError(f"{out / SETTINGS} is missing next to {CHECKPOINT}", ADVICE)
        return None
    if not resume:
        raise ValueError(
            f"`out` must be a new folder, got {out} with a run in it. Resume it with --resume, or choose another."
        )
    check_resumable(read_json(out / SETTINGS, ADVICE) or {}, settings.as_json(), out / SETTINGS)
    if not (out / CHECKPOINT).exists():
        return None
    state = load_checkpoint(out / CHECKPOINT)
    check_fields(out / CHECKPOINT, state)
    check_resumable(state["settings"], settings.as_json(), out / CHECKPOINT)
    return state
