"""Unique names of files and folders, made from any text and valid on every system."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import count

LIMIT = 100  # bytes per name; file systems allow 143 or 255, and suffixes and numbers are added
DIGEST = 8  # hexadecimal digits that keep shortened names different
FORBIDDEN = set('<>:"/\\|?*')
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Convert any text to a valid name of a file or folder.

    The name has 1 to `LIMIT` bytes in UTF-8 (NFC), does not start with a dot, does not end with a dot or a space, and
    contains no separators, control characters or bidi marks. Windows does not reserve it. Longer texts are truncated
    and get a checksum of the whole text.

    Example:
        >>> [safe_name(text) for text in ("cat", "..", "a/b", ".hidden", "nul.txt", "tail. ")]
        ['cat', 'unnamed', 'a_b', 'hidden', '_nul.txt', 'tail']
        >>> safe_name("x" * 300)[-12:], len(safe_name("x" * 300))
        ('xxx-0d4e2ca9', 100)
    """
    normal = normalize_unicode(text)
    plain = "".join(char if is_allowed(char) else "_" for char in normal).strip(". ") or "unnamed"
    return shorten(f"_{plain}" if DEVICES.match(plain) else plain, LIMIT, normal)


def shorten(name: str, limit: int, text: str = "") -> str:
    """Truncate a name of more than `limit` bytes, and append a checksum of `text` (default: the name itself).

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
    """Check whether a character is valid in names on every system."""
    return char not in FORBIDDEN and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def normalize_unicode(name: str) -> str:
    """Compose letters and accents (NFC); file names may contain them as separate characters, above all on macOS.

    Example:
        >>> normalize_unicode("cafe" + chr(0x301)) == "caf" + chr(0xE9)
        True
    """
    return unicodedata.normalize("NFC", name)


def collision_key(name: str) -> str:
    """Return a key that is equal for names that collide on some file system, regardless of case and Unicode form.

    Example:
        >>> collision_key("É.jpg") == collision_key("e\N{COMBINING ACUTE ACCENT}.JPG")
        True
    """
    return normalize_unicode(normalize_unicode(name).casefold())


def numbered_names(name: str, ending: str = "") -> Iterator[str]:
    """Yield the name, then the name with the numbers 2, 3, ...

    Example:
        >>> names = numbered_names("cat", ".html")
        >>> next(names), next(names)
        ('cat.html', 'cat-2.html')
    """
    yield name + ending
    for number in count(2):
        yield f"{name}-{number}{ending}"


class Names:
    """Names of the results of one run in a folder.

    Example:
        >>> names = Names(["Cat"], reserved=["manifest.json"])
        >>> names.choose(numbered_names("cat"), lambda existing: False)
        'cat-2'
        >>> names.choose(numbered_names("cat"), lambda existing: True)
        'Cat'
    """

    def __init__(self, existing: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        """Start from the names that exist in the folder, and those that no result may have."""
        self._existing = {collision_key(name): name for name in existing}
        self._used = {collision_key(name) for name in reserved}

    def choose(self, candidates: Iterable[str], is_own: Callable[[str], bool] = lambda existing: False) -> str:
        """Return the first candidate that is free, or that exists and may be replaced.

        Args:
            candidates: names in order of preference; infinite.
            is_own: function that is given an existing name and returns whether it may be replaced; it may raise.
        """
        for name in candidates:
            key = collision_key(name)
            existing = self._existing.get(key)
            if key not in self._used and (existing is None or is_own(existing)):
                return existing or name
        raise ValueError("`candidates` must be infinite, got names that are all in use.")

    def use(self, name: str) -> None:
        """Reserve the name for one result of this run."""
        self._used.add(collision_key(name))


def unique_names(texts: Iterable[str]) -> list[str]:
    """Return a different valid name for each text.

    Example:
        >>> unique_names(["cat", "dog", "Cat", "cat-2", ".."])
        ['cat', 'dog', 'Cat-2', 'cat-2-2', 'unnamed']
    """
    names, found = Names(), []
    for text in texts:
        found.append(names.choose(numbered_names(safe_name(text))))
        names.use(found[-1])
    return found
