"""Keep the windows that a window-free transformer finds, while somebody asks for them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vit_interactions.models.winft import WindowFreeAttention


class WindowRecord:
    """The windows of the last forward pass, one a layer; nothing is computed twice."""

    def __init__(self, layers: list[WindowFreeAttention]) -> None:
        """Read from these layers."""
        self._layers = layers
        self._kept: tuple[list[Tensor], list[Tensor]] | None = None

    @property
    def logits(self) -> list[Tensor]:
        """Of each layer the logits of w' (batch, patches, patches), at least float32, in the graph: for the loss."""
        return self._kept[0] if self._kept else self._read("window_logits")

    @property
    def masks(self) -> list[Tensor]:
        """Of each layer W (batch, patches, patches) bool: whether patch j is in the window of patch i."""
        return self._kept[1] if self._kept else self._read("window_mask")

    @property
    def operations(self) -> Tensor:
        """E_O of each image (batch,) float32: the pairs of patches in a layer's windows, averaged over layers."""
        return torch.stack([mask.sum((-2, -1)) for mask in self.masks]).float().mean(0)

    def _read(self, name: str) -> list[Tensor]:
        found = [getattr(layer, name) for layer in self._layers]
        if all(tensor is None for tensor in found):
            raise RuntimeError("no forward pass has been recorded: call the model inside the `with` block.")
        return [tensor for tensor in found if tensor is not None]

    def _keep(self) -> None:
        """Take the windows over from the layers."""
        if any(layer.window_logits is not None for layer in self._layers):
            self._kept = self.logits, self.masks


@contextlib.contextmanager
def record_windows(model: nn.Module) -> Iterator[WindowRecord]:
    """Keep the windows of the last forward pass of a window-free transformer inside the `with` block.

    Outside of it the model keeps nothing. Wrapped models (DistributedDataParallel, torch.compile, a training task) are
    looked into.

    Args:
        model: a module with layers of `WindowFreeAttention`.

    Yields:
        The record: `logits`, `masks`, `operations`.

    Raises:
        ValueError: a model without such layers.
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
    if any(layer.recording for layer in layers):
        raise RuntimeError("`model` is being recorded already; use the record of the outer `with` block.")
    record = WindowRecord(layers)
    try:
        for layer in layers:
            layer.recording = True
        yield record
        record._keep()
    finally:
        for layer in layers:
            layer.recording, layer.window_logits, layer.window_mask = False, None, None
