"""Train a classifier of timm, alone or in many processes: resumed exactly, and stopped cleanly."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isnan
from pathlib import Path
from typing import Any, Protocol

from vit_interactions.training.checkpoint import ADVICE, check_fields, load_checkpoint, save_checkpoint
from vit_interactions.training.classification import Evaluation, evaluate
from vit_interactions.training.data.loaders import Batch
from vit_interactions.training.data.unreadable import describe_unreadable, merge_unreadable, notes_on
from vit_interactions.training.export import export_model, repair_export
from vit_interactions.training.factory import (
    create_datasets,
    create_evaluation_loader,
    create_student,
    create_teacher,
    create_training_loader,
    input_config,
    model_options,
)
from vit_interactions.training.fingerprint import check_fingerprint, run_fingerprint
from vit_interactions.training.interruption import Interruption, interruption
from vit_interactions.training.log import RunLog, TensorBoard, WeightsAndBiases, Writer
from vit_interactions.training.settings import TrainingSettings, check_resumable
from vit_interactions.training.trainer import Trainer
from vit_interactions.utilities.files import remove_partials, write_json
from vit_interactions.utilities.json_files import DamagedFileError, read_json
from vit_interactions.utilities.locks import locked
from vit_interactions.utilities.processes import Process, end_process, gather, share, start_process
from vit_interactions.utilities.seeds import seed_everything, seed_of

CHECKPOINT, SETTINGS = "checkpoint.pt", "settings.json"


class Report(Protocol):
    """Who is told how a training goes."""

    def note(self, text: str) -> None:
        """Take a line that matters."""

    def progress(self, step: int, total: int, text: str) -> None:
        """Take how far the training is, and its newest numbers in words."""


class Quiet:
    """Tell nobody."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def progress(self, step: int, total: int, text: str) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        step: steps that are done.
        total: steps that were to be done.
        signal: number of the signal that stopped it; 0 if it came to its end.
        evaluation: the last one; None if there was none in this run.
        first: whether this process is the one that wrote.
    """

    step: int
    total: int
    signal: int
    evaluation: Evaluation | None
    first: bool


def train(
    settings: TrainingSettings, out: Path, *, resume: bool = False, report: Report | None = None
) -> TrainingResult:
    """Train, and write to a folder: settings, logs, checkpoint, the last and the best model.

    A run that was stopped or killed goes on from its last checkpoint under `resume`, and ends, on the CPU and with as
    many processes and threads, in the very weights of one that was not.

    Args:
        settings: what to train, and how.
        out: the folder.
        resume: go on with the run that the folder holds; start it if it holds none.
        report: is told how it goes, in the first process.

    Raises:
        ValueError: settings that do not fit the data, the model or the run to resume; numbers that are not finite.
        BlockingIOError: another run is writing to `out`.
        OSError: files that are missing or cannot be written.
    """
    process = start_process(settings.device)
    try:
        with locked(out, first=process.first):
            state = share(read_run(out, settings, resume) if process.first else None)
            teller = report if report is not None and process.first else Quiet()
            with interruption() as asked:
                return Run(settings, out, process, state, asked, teller).finish()
    finally:
        end_process()


class Run:
    """One training run of one process."""

    def __init__(
        self,
        settings: TrainingSettings,
        out: Path,
        process: Process,
        state: dict[str, Any] | None,
        asked: Interruption,
        report: Report,
    ) -> None:
        """Open the pictures and create the models; begin, or go on from a state of `read_run`.

        Raises:
            ValueError: settings that do not fit the data or the model.
        """
        self._settings, self._out, self._process = settings, out, process
        self._asked, self._report = asked, report
        seed_everything(seed_of(settings.seed))
        sources = create_datasets(settings)
        self._class_names = sources.names
        student, notes = create_student(settings, sources.classes, process, weights=state is None)
        self._config = config = input_config(student, settings)
        teacher = create_teacher(settings, config, process)
        self._origin = run_fingerprint(settings, sources, student, config, teacher)
        self._train_batches = create_training_loader(student, sources, settings, config, process)
        self._eval_batches = create_evaluation_loader(sources, settings, config, process)
        self.total = settings.steps or settings.epochs * self._train_batches.steps
        self.learner = Trainer(student, settings, process, self.total, teacher)
        self._evaluation: Evaluation | None = None
        for note in [*notes, *notes_on(sources.training), *notes_on(sources.evaluation)]:
            report.note(f"note: {note}")
        self._begin(state)

    def _begin(self, state: dict[str, Any] | None) -> None:
        self._evaluated, self._best, self._resumed_at = 0, -1.0, 0
        self._best_files: dict[str, str] = {}
        if state is not None:
            if state["epoch_steps"] != self._train_batches.steps:
                raise ValueError(
                    f"`data` must be the pictures of the run's start, {state['epoch_steps']} steps an epoch, but gives "
                    f"{self._train_batches.steps}."
                )
            check_fingerprint(state["origin"], self._origin)
            if state["step"] > self.total:
                raise DamagedFileError(
                    f"{self._out / CHECKPOINT}: `step` must be in [0, {self.total}], got {state['step']}", ADVICE
                )
            self.learner.check_state(self._out / CHECKPOINT, state)
            self.learner.load_state(state)
            self._evaluated, self._best = state["evaluated"], state["best"]
            self._best_files = state["best_files"]
            self._train_batches.unreadable.update(state.get("unreadable", {}))
            self._resumed_at = self.learner.step
            self._report.note(f"resumed at step {self.learner.step} of {self.total}")
        self.learner.distribute()
        if self._process.first:
            self._out.mkdir(parents=True, exist_ok=True)
            if (self._out / SETTINGS).exists():  # else the folder is not a run's yet, and nothing in it is ours
                for folder in (self._out, self._out / "last", self._out / "best"):
                    remove_partials(folder)
            write_json(self._out / SETTINGS, self._settings.as_json())
            epoch = -(-self._evaluated // self._train_batches.steps)
            self._log = RunLog(self._out, self.learner.step, epoch, self._writers())

    def finish(self) -> TrainingResult:
        """Train from here to the end, or until somebody asks to stop."""
        try:
            while self._end_of_epoch() or self.learner.step < self.total:
                whole = self._end_epoch() if self._end_of_epoch() else self._train_epoch()
                if not whole:
                    return self._outcome(self._asked.agreed(self._process.device))
            return self._outcome(0)
        finally:
            if self._process.first:
                self._log.close()

    def _outcome(self, signal_number: int) -> TrainingResult:
        self._save()
        if self.learner.step == self._resumed_at == self.total and self._process.first:
            self._export("last")  # which may have been damaged since
            repair_export(self._out / "best", self._best_files, self._out / "last")
        step, total = self.learner.step, self.total
        if signal_number:
            name = signal.Signals(signal_number).name
            self._report.note(
                f"stopped by {name} after step {step} of {total}; the same command with --resume goes on"
            )
        return TrainingResult(step, total, signal_number, self._evaluation, self._process.first)

    def _end_of_epoch(self) -> bool:
        """Whether an epoch, or the last part of one, has been trained but not evaluated."""
        step = self.learner.step
        return step > self._evaluated and (step % self._train_batches.steps == 0 or step == self.total)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch; False if asked to stop."""
        learner, settings = self.learner, self._settings
        epoch, first = divmod(learner.step, self._train_batches.steps)
        last = min(self._train_batches.steps, first + self.total - learner.step)
        learner.task.train()
        batches = self._train_batches.batches(epoch, first)
        since = time.perf_counter(), learner.step
        for _ in range(first, last):
            learner.learn(batches)
            self._report.progress(learner.step, self.total, "")
            if learner.step % settings.log_every == 0 or learner.step == self.total:
                self._log_steps(epoch, *since)
                since = time.perf_counter(), learner.step
            if self._asked_to_stop():
                return False
            if learner.step % settings.checkpoint_every == 0:
                self._save()
        return True

    def _log_steps(self, epoch: int, start: float, first: int) -> None:
        """Write the means of the steps since the last row."""
        learner, means = self.learner, self.learner.meter.take("row")
        pictures = (learner.step - first) * self._settings.batch_size
        rate = pictures / (time.perf_counter() - start)
        if self._process.first:
            self._log.step(
                {"step": learner.step, "epoch": epoch, **means, "lr": learner.lr, "images_per_second": rate}
            )
        self._report.progress(
            learner.step, self.total, f"{describe_loss(means)}, {rate:.{int(rate < 10)}f} pictures/s"
        )

    def _end_epoch(self) -> bool:
        """Evaluate, and write what came out; False if asked to stop."""
        self._save()
        learner = self.learner
        epoch = (learner.step - 1) // self._train_batches.steps
        due = (epoch + 1) % self._settings.eval_every == 0 or learner.step == self.total
        if due and self._eval_batches is not None:
            # Processes can agree only where each has the same number of batches.
            loader = self._eval_batches
            batches = until(loader, self._asked_to_stop) if loader.alike else iter(loader)
            model = learner.model.eval()
            try:
                self._evaluation = evaluate(
                    model, batches, unreadable=loader.unreadable, autocast=learner.autocast
                )
            except Interrupted:
                return False
        self._write_epoch(epoch, self._evaluation if due else None)
        self._evaluated = learner.step
        return True

    def _asked_to_stop(self) -> bool:
        return bool(self._asked.agreed(self._process.device))

    def _write_epoch(self, epoch: int, evaluation: Evaluation | None) -> None:
        """Write the numbers of an epoch and the model."""
        learner, means = self.learner, self.learner.meter.take("epoch")
        unreadable = self._gather_unreadable()
        self._train_batches.unreadable.clear()
        if isnan(means["loss"]):
            raise ValueError(
                f"`data` must have training images that can be read, but in epoch {epoch} "
                f"{describe_unreadable(unreadable)} and none could."
            )
        if unreadable:
            self._report.note(f"epoch {epoch}: of the training images, {describe_unreadable(unreadable)}")
        if not self._process.first:
            return
        numbers = {} if evaluation is None else evaluation.as_row()
        columns = [] if self._eval_batches is None else [field.name for field in fields(Evaluation)]
        self._log.epoch(
            {
                "epoch": epoch,
                "step": learner.step,
                **{f"train_{name}": value for name, value in means.items()},
                **{f"eval_{name}": numbers.get(name) for name in columns},
                "lr": learner.lr,
            }
        )
        self._export("last")
        if evaluation is not None:
            self._report.note(f"epoch {epoch}: {describe(evaluation)}")
            if evaluation.top1 > self._best:
                self._best = evaluation.top1
                self._best_files = self._export("best")

    def _export(self, name: str) -> dict[str, str]:
        options = model_options(self._settings)
        return export_model(
            self.learner.model,
            self._out / name,
            config=self._config,
            arguments=options,
            class_names=self._class_names,
            windows={"alpha": self._settings.alpha, "beta": self._settings.beta}
            if self._origin["window_source"]
            else None,
        )

    def _save(self) -> None:
        state = self.learner.state()  # in all processes: it gathers their numbers
        unreadable = self._gather_unreadable()
        if self._process.first:
            own = {
                "evaluated": self._evaluated,
                "best": self._best,
                "best_files": self._best_files,
                "epoch_steps": self._train_batches.steps,
                "origin": self._origin,
                "arch": self._settings.model,
                "settings": self._settings.as_json(),
                "unreadable": unreadable,
            }
            save_checkpoint(self._out / CHECKPOINT, {**state, **own})

    def _gather_unreadable(self) -> dict[str, str]:
        """Return the training images of all processes that could not be read in this epoch."""
        return merge_unreadable(gather(self._train_batches.unreadable))

    def _writers(self) -> list[Writer]:
        writers: list[Writer] = []
        if self._settings.tensorboard:
            writers.append(TensorBoard(self._out / "tensorboard", self.learner.step))
        if self._settings.wandb is not None:
            writers.append(WeightsAndBiases(self._out, self._settings.wandb, self._settings.as_json()))
        return writers


class Interrupted(Exception):
    """Somebody asked to stop in the middle of an evaluation."""


def until(batches: Iterable[Batch], asked: Callable[[], bool]) -> Iterator[Batch]:
    """Give batches; raise Interrupted as soon as somebody asks to stop."""
    for batch in batches:
        if asked():
            raise Interrupted
        yield batch


def describe(evaluation: Evaluation) -> str:
    """Word the numbers of an evaluation.

    Example:
        >>> describe(Evaluation(100, 0.5, 80.0, 95.0, 19208.0, 38416, 10.0))
        'top-1 80.00 %, top-5 95.00 %, loss 0.500, E_O 19,208 of 38,416 (50.0 %)'
    """
    parts = [f"top-1 {evaluation.top1:.2f} %", f"loss {evaluation.loss:.3f}"]
    if evaluation.top5 is not None:
        parts.insert(1, f"top-5 {evaluation.top5:.2f} %")
    if evaluation.operations is not None and evaluation.pairs is not None:
        share = evaluation.operations / evaluation.pairs
        parts.append(f"E_O {evaluation.operations:,.0f} of {evaluation.pairs:,} ({100 * share:.1f} %)")
    if evaluation.unreadable:
        parts.append(f"{evaluation.pictures:,} images, {describe_unreadable(evaluation.unreadable)}")
    return ", ".join(parts)


def describe_loss(means: Mapping[str, float]) -> str:
    """Word the loss of some steps, and its parts where it has some.

    Example:
        >>> describe_loss({"loss": 2.5, "classification_loss": 0.5, "window_loss": 2.0})
        'loss 2.500 (classes 0.500, windows 2.000)'
    """
    text = f"loss {means['loss']:.3f}"
    if "window_loss" not in means:
        return text
    return f"{text} (classes {means['classification_loss']:.3f}, windows {means['window_loss']:.3f})"


def read_run(out: Path, settings: TrainingSettings, resume: bool) -> dict[str, Any] | None:
    """Read the checkpoint of the run that a folder holds; None if it holds none yet.

    Raises:
        ValueError: there is one, but it is not to be resumed, is of other settings, or is damaged.
    """
    if not (out / SETTINGS).exists():
        if (out / CHECKPOINT).exists():
            raise DamagedFileError(f"{out / SETTINGS} is missing beside {CHECKPOINT}", ADVICE)
        return None
    if not resume:
        raise ValueError(f"`out` {out} holds a run already; give --resume to go on with it, or another folder.")
    check_resumable(read_json(out / SETTINGS, ADVICE) or {}, settings.as_json(), out / SETTINGS)
    if not (out / CHECKPOINT).exists():
        return None
    state = load_checkpoint(out / CHECKPOINT)
    check_fields(out / CHECKPOINT, state)
    check_resumable(state["settings"], settings.as_json(), out / CHECKPOINT)
    return state
