"""Record the windows of a window-free transformer for the duration of a `with` block."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vit_interactions.models.winft import WindowFreeAttention


class WindowRecord:
    """The windows of the last forward pass, per layer; nothing is recomputed."""

    def __init__(self, layers: list[WindowFreeAttention]) -> None:
        """Create a record that reads from these layers until it is closed."""
        self._layers = layers
        self._closed: list[tuple[Tensor, Tensor]] | None = None

    @property
    def logits(self) -> list[Tensor]:
        """Logits of w' (batch, patches, patches) per layer, at least float32, with gradients for the loss."""
        return [logits for logits, _ in self._windows()]

    @property
    def masks(self) -> list[Tensor]:
        """W (batch, patches, patches) bool per layer, True if patch j is in the window of patch i."""
        return [mask for _, mask in self._windows()]

    @property
    def operations(self) -> Tensor:
        """E_O (batch,) float32 per image: number of patch pairs in the windows, averaged over layers."""
        return torch.stack([mask.sum((-2, -1)) for mask in self.masks]).float().mean(0)

    def _windows(self) -> list[tuple[Tensor, Tensor]]:
        windows = self._read() if self._closed is None else self._closed
        if not windows:
            raise RuntimeError("No forward pass has been recorded. Call the model inside the `with` block.")
        return windows

    def _read(self) -> list[tuple[Tensor, Tensor]]:
        pairs = [(layer.window_logits, layer.window_mask) for layer in self._layers]
        return [(logits, mask) for logits, mask in pairs if logits is not None and mask is not None]


@contextlib.contextmanager
def record_windows(model: nn.Module) -> Iterator[WindowRecord]:
    """Record the windows of the last forward pass of a window-free transformer in the `with` block.

    The model stores no windows outside of the block. It may be wrapped (DistributedDataParallel, torch.compile, a
    training task). With activation checkpointing, run the backward pass after the block, because it would record the
    recomputed windows. The layers store the last pass of any thread, so run the model from one thread in the block.

    Args:
        model: module with `WindowFreeAttention` layers.

    Yields:
        The record: `logits`, `masks` and `operations` of the layers that ran.

    Raises:
        ValueError: the model has no such layers, or is a DataParallel module that would record on its replicas.
        RuntimeError: the model is already being recorded.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_winft").eval()
        >>> with record_windows(model) as record, torch.no_grad():
        ...     _ = model(torch.zeros(2, 3, 160, 160))
        >>> len(record.logits), record.masks[0].shape, record.operations.shape
        (6, torch.Size([2, 100, 100]), torch.Size([2]))
    """
    layers = [module for module in model.modules() if isinstance(module, WindowFreeAttention)]
    if not layers:
        raise ValueError(
            f"`model` must have WindowFreeAttention layers, got {type(model).__name__} without any. Use for example "
            'timm.create_model("winft_base_patch16_224").'
        )
    if any(isinstance(module, nn.DataParallel) and len(module.device_ids) > 1 for module in model.modules()):
        raise ValueError("`model` must not be a DataParallel module. Use DistributedDataParallel.")
    if any(layer.recording for layer in layers):
        raise RuntimeError("`model` is already being recorded. Use the record of the outer `with` block.")
    record = WindowRecord(layers)
    try:
        for layer in layers:
            layer.recording = True
        yield record
    finally:
        record._closed = record._read()
        for layer in layers:
            layer.recording, layer.window_logits, layer.window_mask = False, None, None
