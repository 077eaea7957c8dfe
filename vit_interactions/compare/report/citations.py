"""What to cite for a comparison: BibTeX of the methods, metrics and libraries that it used."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

_ENTRY = re.compile(r"^@\w+\{.*?^\}$", re.MULTILINE | re.DOTALL)
_KEYWORDS = re.compile(r"^  keywords = \{(.*)\},$", re.MULTILINE)


@cache
def _entries() -> tuple[tuple[str, frozenset[str]], ...]:
    """Every entry of the file, and the names that it is for."""
    text = files("vit_interactions.compare.report").joinpath("citations.bib").read_text("utf-8")
    entries = _ENTRY.findall(text)
    return tuple((entry, frozenset(", ".join(_KEYWORDS.findall(entry)).split(", "))) for entry in entries)


def cited() -> frozenset[str]:
    """Name the methods, metrics and libraries that there is an entry for.

    Example:
        >>> "gmar" in cited(), "captum" in cited()
        (True, True)
    """
    return frozenset().union(*(names for _, names in _entries()))


def citations(names: Iterable[str]) -> list[str]:
    """Give the BibTeX entries for what was used, each once.

    Args:
        names: of methods, metrics and libraries; those without an entry are passed over.

    Returns:
        Entries in the order of the file; `keywords` says what each is for.

    Example:
        >>> [entry.splitlines()[0] for entry in citations(["attention_flow", "attention_rollout"])]
        ['@inproceedings{abnar2020quantifying,']
    """
    wanted = frozenset(names)
    return [entry for entry, used_for in _entries() if used_for & wanted]
