"""Read JSON that may be missing, damaged or edited; every error names the file."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

# Names of types as JSON has them.
WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


class DamagedFileError(ValueError):
    """A file of this library that is damaged or was edited.

    Attributes:
        problem: names the file, and what is wrong with it.
        advice: what to do, a sentence.
    """

    def __init__(self, problem: str, advice: str) -> None:
        """Take the two parts of the message."""
        super().__init__(problem, advice)
        self.problem, self.advice = problem, advice

    def __str__(self) -> str:
        return f"{self.problem}. {self.advice}"


def read_json(path: Path, advice: str) -> dict[str, Any] | None:
    """Read a JSON object from a file; None where there is no file.

    Args:
        path: of the file.
        advice: what to do about a damaged file, a sentence.

    Raises:
        DamagedFileError: the file holds anything but one JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise DamagedFileError(f"{path} must be a file, got a folder", advice) from None
    except RecursionError:
        raise DamagedFileError(f"{path} is damaged: its JSON is nested too deeply", advice) from None
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: it is not JSON ({error})", advice) from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} must hold a JSON object, got {describe_type(content)}", advice)
    return content


def check_keys(path: Path, content: Any, wanted: Mapping[str, Any], advice: str, within: str = "") -> None:
    """Check the keys of a JSON object and the types of their values.

    Args:
        path: of the file that it came from, for errors.
        content: the object.
        wanted: key -> type or union of types; a float may be whole, and no number may be NaN or infinite.
        advice: what to do about a damaged file, a sentence.
        within: where in the file the object is, e.g. "settings".

    Raises:
        DamagedFileError: another type, a missing key, or a value of another type.

    Example:
        >>> try:
        ...     check_keys(Path("run.json"), {"steps": "3"}, {"steps": int}, "Start again.")
        ... except DamagedFileError as error:
        ...     print(error)
        run.json: `steps` must be a whole number, got '3'. Start again.
    """
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path}: `{within}` must be an object, got {short_repr(content)}", advice)
    for name, kind in wanted.items():
        key = f"{within}.{name}" if within else name
        if name not in content:
            raise DamagedFileError(f"{path} has no `{key}`", advice)
        if not is_of(content[name], kind):
            raise DamagedFileError(
                f"{path}: `{key}` must be {describe_kind(kind)}, got {short_repr(content[name])}", advice
            )


def is_of(value: Any, kind: Any) -> bool:
    """Tell whether a JSON value is of a type, or of one of a union.

    Example:
        >>> is_of(3, float), is_of(True, int), is_of(None, str | None), is_of(float("nan"), float)
        (True, False, True, False)
    """
    kinds = getattr(kind, "__args__", (kind,))
    if isinstance(value, bool):
        return bool in kinds or object in kinds
    if isinstance(value, int | float) and float in kinds:
        return isfinite(value)
    return isinstance(value, kinds)


def describe_kind(kind: Any) -> str:
    """Put a type, or a union of types, into words.

    Example:
        >>> describe_kind(float), describe_kind(str | None)
        ('a number', 'a string or null')
    """
    kinds = getattr(kind, "__args__", (kind,))
    return " or ".join(WORDS.get(each, each.__name__) for each in kinds)


def describe_type(value: Any) -> str:
    """Put the type of a JSON value into words."""
    return WORDS[type(value)]


def short_repr(value: Any, longest: int = 60) -> str:
    """Return the `repr` of a value, cut to one short line."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
