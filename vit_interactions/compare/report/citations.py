"""Citations of a comparison: BibTeX of its methods, metrics and libraries."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

_ENTRY = re.compile(r"^@\w+\{.*?^\}$", re.MULTILINE | re.DOTALL)
_KEYWORDS = re.compile(r"^  keywords = \{(.*)\},$", re.MULTILINE)


@cache
def _entries() -> tuple[tuple[str, frozenset[str]], ...]:
    """Return every entry of the file, with the names that it is for."""
    text = files("vit_interactions.compare.report").joinpath("citations.bib").read_text("utf-8")
    entries = _ENTRY.findall(text)
    return tuple((entry, frozenset(", ".join(_KEYWORDS.findall(entry)).split(", "))) for entry in entries)


def cited() -> frozenset[str]:
    """Return the methods, metrics and libraries that have an entry.

    Example:
        >>> "gmar" in cited(), "captum" in cited()
        (True, True)
    """
    return frozenset().union(*(names for _, names in _entries()))


def citations(names: Iterable[str]) -> list[str]:
    """Return the BibTeX entries of methods, metrics and libraries, each once.

    Args:
        names: of methods, metrics and libraries; those without an entry are skipped.

    Returns:
        Entries in the order of the file; `keywords` names what each is for.

    Example:
        >>> [entry.splitlines()[0] for entry in citations(["attention_flow", "attention_rollout"])]
        ['@inproceedings{abnar2020quantifying,']
    """
    wanted = frozenset(names)
    return [entry for entry, used_for in _entries() if used_for & wanted]


def methods_and_libraries(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of methods and of the libraries that they come from, to look up their citations.

    Args:
        described: methods by name, as a manifest describes them.

    Example:
        >>> methods_and_libraries({"gradcam:eigen_smooth=true": {"method": "gradcam", "library": "pytorch-grad-cam"}})
        ['gradcam', 'pytorch-grad-cam']
    """
    return [str(method.get(key)) for method in described.values() for key in ("method", "library")]
