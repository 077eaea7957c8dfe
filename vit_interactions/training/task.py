"""Training a window-free transformer to classify and to find the windows that a teacher sees, as a task of timm.

Source: Ma et al., arXiv 2203.05922, Sec. 5, Eq. 12.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.task import ClassificationTask
from torch import Tensor, nn

from vit_interactions.functional.responsive_field import ResponsiveField
from vit_interactions.functional.window_free import window_free_loss
from vit_interactions.models.record_windows import record_windows
from vit_interactions.utilities.checks import check_weight

Teacher = Callable[[Tensor], ResponsiveField]


class WindowSupervisionTask(ClassificationTask):
    """Classify, under the supervision of responsive fields: L = λ1 CE + λ2 BCE(w', w_gt) (Eq. 12).

    It stands where timm's `ClassificationTask` does, in timm's `train.py` too, and inherits how that one is
    distributed, averaged (EMA) and saved: the teacher is in no checkpoint, and none is needed to use the student.

    Attributes:
        teacher: what gives the targets of a batch that comes without; None if all come with theirs.
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
        """Take the student, and what it learns from.

        Args:
            model: a window-free transformer (`winft_*`).
            criterion: the classification loss of logits and targets; soft targets as it takes them.
            teacher: a `WindowTeacher`, or any other function of the student's batch that gives its fields; goes to
                `device` and `dtype`, as the batch does.
            lambda1: weight of the classification loss, finite and ≥ 0.
            lambda2: weight of the window loss, finite and ≥ 0.
            device: as timm's tasks have it.
            dtype: as timm's tasks have it.
            verbose: as timm's tasks have it.

        Raises:
            ValueError: a model that finds no windows, or a weight outside its range.
        """
        super().__init__(model, criterion, device=device, dtype=dtype, verbose=verbose)
        check_weight("lambda1", lambda1)
        check_weight("lambda2", lambda2)
        with record_windows(model):  # refuses a model without window-free attention
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
            input: images (batch, channels, height, width); the teacher sees exactly these.
            target: of the criterion: classes (batch,), or shares of classes (batch, classes).
            windows: targets of the windows (batch, patches, patches), the masks of responsive fields; None: the
                teacher's.

        Returns:
            "loss" for the backward pass and "output", the logits, as timm's tasks do; "classification_loss" and
            "window_loss", unweighted; and "operations" (batch,), E_O of each image.

        Raises:
            ValueError: neither `windows` nor a teacher, or windows of another shape than the student's.
        """
        targets = self._targets(input) if windows is None else windows
        with record_windows(self.trainable_module) as record:
            output = self.trainable_module(input)
        classification = self.criterion(output, target)
        window = window_free_loss(record.logits, targets)
        return {
            "loss": self.lambda1 * classification + self.lambda2 * window,
            "output": output,
            "classification_loss": classification.detach(),
            "window_loss": window.detach(),
            "operations": record.operations,
        }

    def _targets(self, images: Tensor) -> Tensor:
        if self.teacher is None:
            raise ValueError("`windows` must come with the batch, because the task has no teacher.")
        return self.teacher(images).mask
