"""Find out what is running from the Python frames of a call."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


def running_objects() -> Iterator[Any]:
    """Iterate over the `self` of each frame that is running, innermost first; None for functions without one.

    Example:
        >>> class Module:
        ...     def forward(self):
        ...         return next(running_objects())
        >>> type(Module().forward()).__name__
        'Module'
    """
    return map(_self_of, running_frames())


def running_frames() -> Iterator[FrameType]:
    """Yield the running frames, innermost first, starting with the caller of the first `next`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _self_of(frame: FrameType) -> Any:
    return frame.f_locals.get("self")
