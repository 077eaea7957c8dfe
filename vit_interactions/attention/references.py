"""Copy the objects that refer to copied modules: lists, methods, closures, helper objects.

The search visits every object that a value refers to, directly or indirectly. Only objects that lead to a copied module
are copied; all others are shared.
"""

import copy
import gc
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

MUTABLE = (list, dict, set, deque)
PLAIN = frozenset({list, dict, set, OrderedDict})
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_NO_HOLDERS = (type, Tensor, ModuleType)
_LIMIT = 200_000
_EMPTY = CellType()


class UncopyableReferenceError(Exception):
    """A module is referenced by an object that cannot be copied."""


def is_atom(value: Any) -> bool:
    """Return whether a value cannot lead to a module of a model."""
    return type(value) in _ATOMS or isinstance(value, _NO_HOLDERS)


def find_holders(values: Iterable[Any], targets: dict[int, Any]) -> dict[int, Any]:
    """Find the objects that lead to a target, among values and everything that they refer to.

    Args:
        values: start of the search.
        targets: objects by `id`, at which the search stops.

    Returns:
        The objects by `id`.

    Raises:
        UncopyableReferenceError: more objects than can be searched.

    Example:
        >>> target = object()
        >>> inner, other = [target], [1]
        >>> outer = {"inner": inner, "other": other}
        >>> list(find_holders([outer], {id(target): target}).values()) == [inner, outer]
        True
    """
    visited: dict[int, Any] = {}
    parents: dict[int, list[int]] = {}
    found: list[int] = []
    todo = [value for value in values if id(value) not in targets]
    while todo:
        value = todo.pop()
        if id(value) in visited:
            continue
        visited[id(value)] = value
        if len(visited) > _LIMIT:
            raise UncopyableReferenceError(f"objects of more than {_LIMIT:,} parts")
        for part in _parts(value):
            if id(part) in targets:
                found.append(id(value))
            elif not is_atom(part):
                parents.setdefault(id(part), []).append(id(value))
                todo.append(part)
    holding: dict[int, Any] = {}
    while found:
        key = found.pop()
        if key not in holding:
            holding[key] = visited[key]
            found.extend(parents.get(key, ()))
    return holding


def _parts(value: Any) -> list[Any]:
    """Return what an object refers to, apart from a function's globals."""
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if not isinstance(value, FunctionType):
        return gc.get_referents(value)
    cells = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
    return [*cells, value.__defaults__, value.__kwdefaults__, value.__dict__]


class ReferenceCopier:
    """A function that copies objects so that they refer to the copies of modules.

    Attributes:
        copies: the copies so far, by the `id` of the original; at first those of the modules.
        holding: objects that lead to a copied module, from `find_holders`.
    """

    def __init__(self, copies: dict[int, Any], holding: dict[int, Any]) -> None:
        """Create the function; `copies` will grow."""
        self.copies, self.holding = copies, holding

    def __call__(self, value: Any) -> Any:
        """Return the copy of an object that is a copied one or leads to it; any other object unchanged.

        Raises:
            UncopyableReferenceError: an object that leads to a copied module but cannot be copied.
        """
        if id(value) in self.copies:
            return self.copies[id(value)]
        return self.copied(value) if id(value) in self.holding else value

    def copied(self, value: Any) -> Any:
        """Copy an object that leads to a copied module, or a mutable container."""
        if isinstance(value, MUTABLE):
            return self._container(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, tuple | frozenset | MethodType | partial | weakref.ReferenceType):
            new = self._immutable(value)
        elif isinstance(value, BuiltinFunctionType):
            new = getattr(self(value.__self__), value.__name__)
        else:
            return self._object(value)
        return self._keep(value, new)

    def _keep(self, value: Any, new: Any) -> Any:
        self.copies[id(value)] = new
        return new

    def _container(self, value: Any) -> Any:
        if type(value) in PLAIN:
            new = self._keep(value, type(value)())
        else:
            new = self._keep(value, copy.copy(value))
            new.clear()
        if isinstance(value, dict):
            for key, part in list(value.items()):
                new[self(key)] = self(part)
        else:
            (new.update if isinstance(value, set) else new.extend)(map(self, list(value)))
        return new

    def _function(self, value: FunctionType) -> FunctionType:
        cells = tuple(map(self._cell, value.__closure__ or ()))
        new = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells or None)
        self._keep(value, new)
        # Cells are filled last: a function may be in its own closure.
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            if cell is not old and cell == _EMPTY:
                cell.cell_contents = self(old.cell_contents)
        new.__defaults__, new.__kwdefaults__ = self(value.__defaults__), self(value.__kwdefaults__)
        new.__dict__.update(self(value.__dict__))
        return new

    def _cell(self, cell: CellType) -> Any:
        """Return an empty cell to fill later, if the cell leads to a copied module."""
        if id(cell) in self.copies or cell == _EMPTY:
            return self.copies.get(id(cell), cell)
        key = id(cell.cell_contents)
        return self._keep(cell, CellType()) if key in self.copies or key in self.holding else cell

    def _immutable(self, value: Any) -> Any:
        if isinstance(value, MethodType):
            return MethodType(self(value.__func__), self(value.__self__))
        if isinstance(value, partial):
            keywords = {name: self(part) for name, part in value.keywords.items()}
            return type(value)(self(value.func), *map(self, value.args), **keywords)
        if isinstance(value, weakref.ReferenceType):
            return weakref.ref(self(value()))
        parts = list(map(self, value))
        return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)

    def _object(self, value: Any) -> Any:
        """Copy an object whose references are all in its `__dict__`."""
        state = getattr(value, "__dict__", None)
        elsewhere = [part for part in gc.get_referents(value) if part is not state]
        if state is None or any(id(part) in self.copies or id(part) in self.holding for part in elsewhere):
            raise UncopyableReferenceError(f"a {type(value).__module__}.{type(value).__qualname__}")
        try:
            new = self._keep(value, object.__new__(type(value)))
        except TypeError as error:
            raise UncopyableReferenceError(f"a {type(value).__qualname__} ({error})") from error
        new.__dict__.update({name: self(part) for name, part in state.items()})
        return new
