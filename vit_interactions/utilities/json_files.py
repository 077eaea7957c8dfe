"""Write JSON atomically, and read JSON that may be missing, damaged or edited; every error names the file."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from vit_interactions.utilities.files import write_text

JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


class DamagedFileError(ValueError):
    """A file written by this library that is damaged or was edited.

    Attributes:
        problem: the file, and what is wrong with it.
        advice: what to do, a sentence.
    """

    def __init__(self, problem: str, advice: str) -> None:
        """Join the problem and the advice to one message."""
        super().__init__(problem, advice)
        self.problem, self.advice = problem, advice

    def __str__(self) -> str:
        return f"{self.problem}. {self.advice}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically.

    Raises:
        ValueError: NaN or an infinity, which JSON cannot represent.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{path} must contain finite numbers only, because JSON has no others: {error}."
        ) from error
    write_text(path, text + "\n")


def read_json(path: Path, advice: str) -> dict[str, Any] | None:
    """Read a JSON object from a file; return None if there is no file.

    Args:
        path: file to read.
        advice: what to do about a damaged file, a sentence.

    Raises:
        DamagedFileError: the content is not exactly one JSON object.
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
        raise DamagedFileError(f"{path} must contain a JSON object, got {JSON_TYPES[type(content)]}", advice)
    return content


def check_keys(path: Path, content: Any, wanted: Mapping[str, Any], advice: str, within: str = "") -> None:
    """Check the keys of a JSON object and the types of their values.

    Args:
        path: file that the object comes from, for errors.
        content: the object.
        wanted: key -> type, or union of types. `float` accepts whole numbers; NaN and infinities are rejected.
        advice: what to do about a damaged file, a sentence.
        within: position of the object in the file, e.g. "settings".

    Raises:
        DamagedFileError: not an object, a missing key, or a value of another type.

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
        if not has_json_type(content[name], kind):
            raise DamagedFileError(
                f"{path}: `{key}` must be {describe_type(kind)}, got {short_repr(content[name])}", advice
            )


def has_json_type(value: Any, kind: Any) -> bool:
    """Check whether a JSON value has a type, or one of a union of types.

    Example:
        >>> has_json_type(3, float), has_json_type(True, int), has_json_type(float("nan"), float)
        (True, False, False)
    """
    kinds = getattr(kind, "__args__", (kind,))
    if isinstance(value, bool):
        return bool in kinds or object in kinds
    if isinstance(value, int | float) and float in kinds:
        return isfinite(value)
    return isinstance(value, kinds)


def describe_type(kind: Any) -> str:
    """Return the JSON name of a type, or of a union of types, for errors.

    Example:
        >>> describe_type(float), describe_type(str | None)
        ('a number', 'a string or null')
    """
    kinds = getattr(kind, "__args__", (kind,))
    return " or ".join(JSON_TYPES.get(each, each.__name__) for each in kinds)


def short_repr(value: Any, longest: int = 60) -> str:
    """Return the ASCII `repr` of a value, truncated to `longest` characters."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
