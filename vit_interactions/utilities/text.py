"""Text for people: printable strings, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterable
from unicodedata import category, normalize


def printable(text: str, *, lines: bool = False) -> str:
    """Replace control characters, bidi marks and undecodable bytes of file names by U+FFFD.

    Args:
        text: any text.
        lines: keep line breaks.

    Example:
        >>> printable("cat" + chr(27) + "[31m" + chr(10) + ".jpg")
        'cat�[31m�.jpg'
        >>> printable("1.00\N{NARROW NO-BREAK SPACE}PM") == "1.00\N{NARROW NO-BREAK SPACE}PM"
        True
        >>> print(printable("no" + chr(10) + "cat", lines=True))
        no
        cat
    """
    return "".join(
        char if _is_printable(char) or (lines and char == "\n") else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _is_printable(char: str) -> bool:
    # `str.isprintable` rejects all spaces except one; macOS and Japanese file names contain others.
    return char.isprintable() or category(char) == "Zs"


FORMULA = ("=", "+", "-", "@")  # first characters of formulas in spreadsheets; their full-width forms too


def spreadsheet_text(text: str) -> str:
    """Return a printable text for a CSV file, with an apostrophe before what a spreadsheet would run as a formula.

    Source: OWASP, CSV Injection.

    Example:
        >>> spreadsheet_text("cat.png"), spreadsheet_text("=HYPERLINK(1).png"), spreadsheet_text(" -2")
        ('cat.png', "'=HYPERLINK(1).png", "' -2")
    """
    shown = printable(text)
    return f"'{shown}" if normalize("NFKC", shown.lstrip()[:1]) in FORMULA else shown


def describe_error(error: BaseException) -> str:
    """Return the message of an exception, or its type if it has none.

    Example:
        >>> describe_error(ValueError("no image")), describe_error(MemoryError())
        ('no image', 'MemoryError')
    """
    return str(error) or type(error).__name__


def plural(number: int, noun: str) -> str:
    """Format a number with its noun.

    Example:
        >>> plural(1, "image"), plural(0, "image")
        ('1 image', '0 images')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the known names closest to a misspelled one, or "" if none is close.

    Example:
        >>> did_you_mean("rollout", ["attention_rollout", "gmar"])
        ' Did you mean attention_rollout?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or [k for k in known if name in k][:3]
    return f" Did you mean {' or '.join(close)}?" if close else ""
