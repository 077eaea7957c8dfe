"""Find running modules from the Python frames of a call."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


def running_objects() -> Iterator[Any]:
    """Yield the `self` of each frame that is running, innermost first; None for functions without one.

    Example:
        >>> class Module:
        ...     def forward(self):
        ...         return next(running_objects())
        >>> type(Module().forward()).__name__
        'Module'
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_locals.get("self")
        frame = frame.f_back
