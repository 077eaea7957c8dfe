"""Which image is meant where boxes and masks name one."""

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import TypeVar

from vit_interactions.utilities.names import composed

Named = TypeVar("Named", bound=PurePath)


def match(
    argument: str,
    names: Iterable[PurePath],
    images: Iterable[Named],
    called: Callable[[PurePath], PurePath] = lambda path: path,
) -> dict[PurePath, Named]:
    """Find for each name the image whose path ends with it, folder by folder.

    Args:
        argument: that the names were given by, for errors.
        names: of files, with as many folders before them as tell images apart.
        images: their paths.
        called: what is compared with names in the place of an image's path.

    Returns:
        The images of the names that fit one; others are left out.

    Raises:
        ValueError: a name that fits several images.

    Example:
        >>> from pathlib import PurePosixPath as P
        >>> match("boxes", [P("b/cat.png")], [P("/a/cat.png"), P("/b/cat.png")])
        {PurePosixPath('b/cat.png'): PurePosixPath('/b/cat.png')}
    """
    alike: dict[str, list[Named]] = {}
    for path in dict.fromkeys(images):
        alike.setdefault(composed(called(path).name), []).append(path)
    found = {}
    for name in names:
        parts = _parts(name)
        fitting = [path for path in alike.get(parts[-1], ()) if _parts(called(path))[-len(parts) :] == parts]
        # Two files whose names look alike are told apart by their very characters.
        exact = [path for path in fitting if called(path).parts[-len(parts) :] == name.parts]
        fitting = exact or fitting
        if len(fitting) > 1:
            raise ValueError(
                f"`{argument}` must tell images apart, but {str(name)!r} fits {len(fitting)}, e.g. "
                f"{str(fitting[0])!r} and {str(fitting[1])!r}: put folders before the name that only one of them has."
            )
        if fitting:
            found[name] = fitting[0]
    return found


def _parts(path: PurePath) -> tuple[str, ...]:
    return tuple(map(composed, path.parts)) or ("",)
