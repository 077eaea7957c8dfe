"""A timm task that trains a window-free transformer to classify and to predict the windows of a teacher.

Source: Ma et al., arXiv 2203.05922, Sec. 5, Eq. 12.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.task import ClassificationTask
from torch import Tensor, nn

from vit_interactions.functional.window_free import window_free_loss
from vit_interactions.models.adaptive_window import Teacher
from vit_interactions.models.record_windows import record_windows
from vit_interactions.utilities.checks import check_weight


class WindowSupervisionTask(ClassificationTask):
    """Classification supervised by responsive fields: L = λ1 CE + λ2 BCE(w', w_gt) (Eq. 12).

    A drop-in replacement for timm's `ClassificationTask`, in timm's `train.py` too: distributed training, EMA and
    checkpoints are inherited. Checkpoints do not contain the teacher, which is not needed to use the student.

    Attributes:
        teacher: computes the target windows of batches that come without; None if all come with windows.
        lambda1: weight of the classification loss.
        lambda2: weight of the window loss.

    Example:
        >>> import timm
        >>> from vit_interactions.training.teacher import WindowTeacher
        >>> student, teacher = timm.create_model("test_winft"), timm.create_model("test_vit")
        >>> task = WindowSupervisionTask(student, nn.CrossEntropyLoss(), teacher=WindowTeacher(teacher, alpha=0.05))
        >>> sorted(task(torch.zeros(2, 3, 160, 160), torch.tensor([0, 1])))
        ['classification_loss', 'loss', 'operations', 'output', 'window_loss']
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module | Callable[[Tensor, Tensor], Tensor],
        *,
        teacher: Teacher | None = None,
        lambda1: float = 1.0,
        lambda2: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        """Create a task for a student.

        Args:
            model: a window-free transformer (`winft_*`).
            criterion: classification loss of logits and targets.
            teacher: a `WindowTeacher`, or any function from images to responsive fields; a module is moved to
                `device` and `dtype`.
            lambda1: weight of the classification loss, finite and ≥ 0.
            lambda2: weight of the window loss, finite and ≥ 0.
            device: as in timm's tasks.
            dtype: as in timm's tasks.
            verbose: as in timm's tasks.

        Raises:
            ValueError: a model without window-free attention, or a weight out of range.
        """
        super().__init__(model, criterion, device=device, dtype=dtype, verbose=verbose)
        check_weight("lambda1", lambda1)
        check_weight("lambda2", lambda2)
        with record_windows(model):  # raises for a model without window-free attention
            pass
        self.teacher = teacher.to(device=device, dtype=dtype) if isinstance(teacher, nn.Module) else teacher
        self.lambda1, self.lambda2 = lambda1, lambda2

    def train(self, mode: bool = True) -> "WindowSupervisionTask":
        """Set the student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()
        return self

    def forward(self, input: Tensor, target: Any, windows: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            input: images (batch, channels, height, width), also the input of the teacher.
            target: target of the criterion: classes (batch,), or soft targets (batch, classes).
            windows: target windows (batch, patches, patches), the masks of responsive fields; None for the
                teacher's.

        Returns:
            "loss" and "output", the logits, as timm's tasks; "classification_loss" and "window_loss", unweighted; and
            "operations" (batch,), the patch interactions per image.

        Raises:
            ValueError: neither `windows` nor a teacher, or windows of another shape than the student's.
        """
        if windows is None:
            if self.teacher is None:
                raise ValueError("`windows` must come with the batch if the task has no teacher, got none.")
            windows = self.teacher(input).mask
        with record_windows(self.trainable_module) as record:
            output = self.trainable_module(input)
        classification = self.criterion(output, target)
        window = window_free_loss(record.logits, windows)
        return {
            "loss": self.lambda1 * classification + self.lambda2 * window,
            "output": output,
            "classification_loss": classification.detach(),
            "window_loss": window.detach(),
            "operations": record.operations,
        }
