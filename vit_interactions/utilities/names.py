"""Names of files and folders that are made from any text: safe on every system, and each used once."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import count

LIMIT = 100  # bytes of a name; file systems allow 255 or 143, and endings and numbers come on top
DIGEST = 8  # hexadecimal digits that tell shortened names apart
FORBIDDEN = set('<>:"/\\|?*')
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Return a name for a file or folder, made from any text.

    The name has at most `LIMIT` bytes in UTF-8 (NFC), is not empty, does not begin with a dot, does not end with a dot
    or a space, and holds no separators, control characters or marks of direction. Windows does not reserve it. Longer
    texts are cut and get a checksum of the whole text.

    Example:
        >>> [safe_name(text) for text in ("cat", "..", "a/b", ".hidden", "nul.txt", "tail. ")]
        ['cat', 'unnamed', 'a_b', 'hidden', '_nul.txt', 'tail']
        >>> safe_name("x" * 300)[-12:], len(safe_name("x" * 300))
        ('xxx-0d4e2ca9', 100)
    """
    normal = composed(text)
    plain = "".join(char if is_allowed(char) else "_" for char in normal).strip(". ") or "unnamed"
    return shorten(f"_{plain}" if DEVICES.match(plain) else plain, LIMIT, normal)


def shorten(name: str, limit: int, text: str = "") -> str:
    """Cut a name of more than `limit` bytes, and end it with a checksum of the text that it stands for.

    Example:
        >>> shorten("cat.png", 200), len(shorten("x" * 250, 200))
        ('cat.png', 200)
    """
    content = name.encode("utf-8", "surrogatepass")
    if len(content) <= limit:
        return name
    digest = hashlib.sha256((text or name).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
    return f"{content[: limit - DIGEST - 1].decode('utf-8', 'ignore').rstrip('. ')}-{digest}"


def is_allowed(char: str) -> bool:
    """Return whether a character may stand in a name on every system."""
    return char not in FORBIDDEN and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def composed(name: str) -> str:
    """Return a name with each accent in one character with its letter, as macOS and Linux may write it apart.

    Example:
        >>> composed("cafe" + chr(0x301)) == "caf" + chr(0xE9)
        True
    """
    return unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """Return what two names share that some file system takes for one: case and composition of letters ignored.

    Example:
        >>> fold("É.jpg") == fold("e\N{COMBINING ACUTE ACCENT}.JPG")
        True
    """
    return composed(composed(name).casefold())


def numbered(name: str, ending: str = "") -> Iterator[str]:
    """Yield a name, then the name with the numbers from 2 on.

    Example:
        >>> names = numbered("cat", ".html")
        >>> next(names), next(names)
        ('cat.html', 'cat-2.html')
    """
    yield name + ending
    for number in count(2):
        yield f"{name}-{number}{ending}"


class Names:
    """Names of one run's results in a folder.

    Example:
        >>> names = Names(["Cat"], reserved=["manifest.json"])
        >>> names.choose(numbered("cat"), lambda there: False)
        'cat-2'
        >>> names.choose(numbered("cat"), lambda there: True)
        'Cat'
    """

    def __init__(self, there: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        """Take the names that are in the folder already, and those that no result may have."""
        self._there = {fold(name): name for name in there}
        self._used = {fold(name) for name in reserved}

    def choose(self, candidates: Iterable[str], is_own: Callable[[str], bool] = lambda there: False) -> str:
        """Return the first candidate that is free, or in the folder already as this very result's own.

        Args:
            candidates: in order; endless.
            is_own: gets the name of what is there, and returns whether it may be replaced; it may raise.
        """
        for name in candidates:
            there = self._there.get(fold(name))
            if fold(name) not in self._used and (there is None or is_own(there)):
                return there or name
        raise ValueError("`candidates` must be endless, got names that are all in use.")

    def use(self, name: str) -> None:
        """Give no other result of this run this name."""
        self._used.add(fold(name))


def unique_names(texts: Iterable[str]) -> list[str]:
    """Return a safe name per text, all different.

    Example:
        >>> unique_names(["cat", "dog", "Cat", "cat-2", ".."])
        ['cat', 'dog', 'Cat-2', 'cat-2-2', 'unnamed']
    """
    names, found = Names(), []
    for text in texts:
        found.append(names.choose(numbered(safe_name(text))))
        names.use(found[-1])
    return found
