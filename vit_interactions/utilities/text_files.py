"""Read text files that users write with editors and spreadsheets."""

import codecs
from pathlib import Path


def read_text_file(argument: str, path: Path) -> str:
    r"""Read a text file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets write it.

    Args:
        argument: what the file is called in messages.
        path: of the file.

    Returns:
        The text without the mark; line ends as they are in the file.

    Raises:
        ValueError: another encoding, with the line; or zero bytes.
        OSError: the file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "names.txt").write_bytes("ant\nbée\n".encode("utf-16"))
        ...     read_text_file("class_map", Path(folder, "names.txt"))
        'ant\nbée\n'
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        # The decoder of UTF-8 with a mark counts from behind the mark.
        rest = content.removeprefix(codecs.BOM_UTF8)
        line = rest[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise ValueError(
            f"`{argument}` must be text in UTF-8, got another encoding in line {line} of {path} (byte "
            f"{rest[error.start]:#04x} is not {encoding.removesuffix('-sig').upper()}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise ValueError(f"`{argument}` must be text in UTF-8, got zero bytes in {path}. Save it as UTF-8.")
    return text
