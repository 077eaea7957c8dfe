"""Text from outside made printable."""

from unicodedata import category


def printable(text: str, *, lines: bool = False) -> str:
    """Replace what cannot be printed: control characters, changes of direction, bytes of file names that are no text.

    Args:
        text: any.
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
    # Python calls all spaces but one unprintable; names of files in macOS and in Japanese have others.
    return char.isprintable() or category(char) == "Zs"


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


def method_in_words(name: str) -> str:
    """Return the display name of a method; its options stay as typed.

    Example:
        >>> method_in_words("attention_rollout"), method_in_words("legrad:pool=mean_all")
        ('attention rollout', 'legrad:pool=mean_all')
    """
    method, colon, options = name.partition(":")
    return method.replace("_", " ") + colon + options
