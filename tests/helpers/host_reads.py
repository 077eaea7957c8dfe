"""Count the operations for which a GPU would make the host wait: reads of values, and shapes that depend on values."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    torch.ops.aten._local_scalar_dense.default,  # item(), bool(), int(), float(), tolist()
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten.repeat_interleave.Tensor,
}


class HostReads(TorchDispatchMode):  # type: ignore[misc]
    """A context that lists the operations that make the host wait.

    Attributes:
        found: their names, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func in _READS or by_mask:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
