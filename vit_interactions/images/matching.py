"""Match the names of boxes and masks to images."""

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import TypeVar

from vit_interactions.utilities.names import normalize_unicode

Named = TypeVar("Named", bound=PurePath)


def match(
    argument: str,
    names: Iterable[PurePath],
    images: Iterable[Named],
    called: Callable[[PurePath], PurePath] = lambda path: path,
) -> dict[PurePath, Named]:
    """Find the image whose path ends in each name.

    Args:
        argument: name of the argument that lists the names, for error messages.
        names: file names, preceded by as many folders as needed to identify an image.
        images: image paths.
        called: returns, for the path of an image, the path to compare with the names.

    Returns:
        The image per name; names that match none are omitted.

    Raises:
        ValueError: a name matches several images.

    Example:
        >>> from pathlib import PurePosixPath as P
        >>> match("boxes", [P("b/cat.png")], [P("/a/cat.png"), P("/b/cat.png")])
        {PurePosixPath('b/cat.png'): PurePosixPath('/b/cat.png')}
    """
    alike: dict[str, list[Named]] = {}
    for path in dict.fromkeys(images):
        alike.setdefault(normalize_unicode(called(path).name), []).append(path)
    found = {}
    for name in names:
        parts = _parts(name)
        fitting = [path for path in alike.get(parts[-1], ()) if _parts(called(path))[-len(parts) :] == parts]
        # Names that differ only in Unicode normalization are compared exactly.
        exact = [path for path in fitting if called(path).parts[-len(parts) :] == name.parts]
        fitting = exact or fitting
        if len(fitting) > 1:
            raise ValueError(
                f"`{argument}` must identify each image, got {str(name)!r}, which matches {len(fitting)}, e.g. "
                f"{str(fitting[0])!r} and {str(fitting[1])!r}. Put folders before the name that only one of them has."
            )
        if fitting:
            found[name] = fitting[0]
    return found


def _parts(path: PurePath) -> tuple[str, ...]:
    return tuple(map(normalize_unicode, path.parts)) or ("",)
