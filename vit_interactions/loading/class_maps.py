"""Names of a model's classes in order, read from class maps and configs."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_interactions.utilities.files import check_regular_file, read_text
from vit_interactions.utilities.names import normalize_unicode
from vit_interactions.utilities.text import did_you_mean


@dataclass(frozen=True)
class ClassNames:
    """Distinct names of classes in order.

    Names match folders in either encoding of accents (NFC or NFD).

    Attributes:
        names: name of each class.
        source: origin of the names, for errors.

    Raises:
        ValueError: a repeated name.

    Example:
        >>> classes = ClassNames(("ant", "bee"), "`class_map` c.txt")
        >>> classes.class_to_idx(["bee"])
        {'bee': 1}
        >>> classes.class_to_idx(["bee", "ants"])
        Traceback (most recent call last):
        ValueError: `data` must have classes of `class_map` c.txt only, got ants. Did you mean ant? Make ...
    """

    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        first: dict[str, int] = {}
        for number, name in enumerate(map(normalize_unicode, self.names), 1):
            if name in first:
                raise ValueError(
                    f"{self.source} must name each class once, got {name!r} as entries {first[name]} and {number}."
                )
            first[name] = number

    def class_to_idx(self, found: Iterable[str]) -> dict[str, int]:
        """Return the index of each class found in the data.

        Raises:
            ValueError: names that are not among the classes.
        """
        found = list(found)
        indices = self.known_class_to_idx(found)
        if unknown := [name for name in found if name not in indices]:
            raise ValueError(
                f"`data` must have classes of {self.source} only, got {abbreviate(unknown)}."
                f"{did_you_mean(unknown[0], self.names)} Make the names agree, or remove their images."
            )
        return indices

    def known_class_to_idx(self, found: Iterable[str]) -> dict[str, int]:
        """Return the index of each class found in the data that is among the classes."""
        known = {normalize_unicode(name): index for index, name in enumerate(self.names)}
        return {name: known[normalize_unicode(name)] for name in found if normalize_unicode(name) in known}


def abbreviate(names: Sequence[str], shown: int = 5) -> str:
    """Join the first names, and count the others.

    Example:
        >>> abbreviate(["a", "b", "c"], shown=2)
        'a, b and 1 more'
    """
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def read_class_map(path: Path, count: int) -> ClassNames:
    """Read the names of a model's classes from a text file, one name per line.

    The encoding is UTF-8, or UTF-16 with a byte order mark. Empty lines at the end are allowed.

    Args:
        path: of the file.
        count: number of the model's classes.

    Raises:
        OSError: no such file.
        ValueError: not a regular file, another encoding, an empty or repeated line, or another number of names.
    """
    check_regular_file("class_map", path)
    lines = [line.strip() for line in re.split("\r\n|\r|\n", read_text("class_map", path).rstrip())]
    source = f"`class_map` {path}"
    if "" in lines:
        raise ValueError(f"{source} must have a class name in each line, got an empty line {lines.index('') + 1}.")
    names = ClassNames(tuple(lines), source)
    if len(lines) != count:
        raise ValueError(
            f"`class_map` must have a line for each of the model's {count} classes, got {len(lines)} lines in {path}."
        )
    return names


def names_of_config(names: Any, count: int) -> ClassNames:
    """Check the class names in a model's config.

    Raises:
        ValueError: not a list of names, a repeated name, or another number than the model has classes.
    """
    source = "`label_names` of the model's config"
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{source} must be a list of names, got {type(names).__name__}. Give a `class_map`.")
    if len(names) != count:
        raise ValueError(
            f"{source} must name each of the model's {count} classes, got {len(names)} names. Give a `class_map`."
        )
    return ClassNames(tuple(names), source)
