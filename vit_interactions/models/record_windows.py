"""Keep the windows that a window-free transformer finds, while somebody asks for them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vit_interactions.models.winft import WindowFreeAttention


class WindowRecord:
    """The windows of the last forward pass, one a layer; nothing is computed twice."""

    def __init__(self, layers: list[WindowFreeAttention]) -> None:
        """Read from these layers, until closed."""
        self._layers = layers
        self._closed: list[tuple[Tensor, Tensor]] | None = None

    @property
    def logits(self) -> list[Tensor]:
        """Of each layer the logits of w' (batch, patches, patches), at least float32, in the graph: for the loss."""
        return [logits for logits, _ in self._windows()]

    @property
    def masks(self) -> list[Tensor]:
        """Of each layer W (batch, patches, patches) bool: whether patch j is in the window of patch i."""
        return [mask for _, mask in self._windows()]

    @property
    def operations(self) -> Tensor:
        """E_O of each image (batch,) float32: the pairs of patches in a layer's windows, averaged over layers."""
        return torch.stack([mask.sum((-2, -1)) for mask in self.masks]).float().mean(0)

    def _windows(self) -> list[tuple[Tensor, Tensor]]:
        windows = self._kept() if self._closed is None else self._closed
        if not windows:
            raise RuntimeError("no forward pass has been recorded: call the model inside the `with` block.")
        return windows

    def _kept(self) -> list[tuple[Tensor, Tensor]]:
        pairs = [(layer.window_logits, layer.window_mask) for layer in self._layers]
        return [(logits, mask) for logits, mask in pairs if logits is not None and mask is not None]

    def _close(self) -> None:
        """Take the windows over from the layers."""
        self._closed = self._kept()


@contextlib.contextmanager
def record_windows(model: nn.Module) -> Iterator[WindowRecord]:
    """Keep the windows of the last forward pass of a window-free transformer inside the `with` block.

    Outside of it the model keeps nothing. Wrapped models (DistributedDataParallel, torch.compile, a training task) are
    looked into. With activation checkpointing, run the backward pass after the block: what it recomputes would be kept
    too. The layers keep the last pass of any thread, so run the model from one thread inside the block.

    Args:
        model: a module with layers of `WindowFreeAttention`.

    Yields:
        The record: `logits`, `masks`, `operations`, of the layers that ran.

    Raises:
        ValueError: a model without such layers, or one whose copies on other devices would keep the windows.
        RuntimeError: the model is being recorded already.

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
            f"`model` must have layers of WindowFreeAttention, but {type(model).__name__} has none; "
            'timm.create_model("winft_base_patch16_224") has.'
        )
    if any(isinstance(module, nn.DataParallel) and len(module.device_ids) > 1 for module in model.modules()):
        raise ValueError("`model` must not be copied by DataParallel at each call; use DistributedDataParallel.")
    if any(layer.recording for layer in layers):
        raise RuntimeError("`model` is being recorded already; use the record of the outer `with` block.")
    record = WindowRecord(layers)
    try:
        for layer in layers:
            layer.recording = True
        yield record
    finally:
        record._close()
        for layer in layers:
            layer.recording, layer.window_logits, layer.window_mask = False, None, None
