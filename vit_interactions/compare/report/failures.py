"""Failures, one line per reason."""

from collections.abc import Sequence

from vit_interactions.compare.report.tables import FailureGroup

LONGEST = 160  # characters of a reason or a name


def failures_by_reason(failures: Sequence[FailureGroup]) -> list[list[FailureGroup]]:
    """Group failures by reason: whole images first, then by number of metrics."""
    found: dict[tuple[object, ...], list[FailureGroup]] = {}
    for each in failures:
        found.setdefault((each.model, each.reason, each.methods, each.images), []).append(each)
    return sorted(found.values(), key=lambda alike: (not alike[0].methods, len(alike)), reverse=True)


def failure_line(failures: Sequence[FailureGroup], longest: int = LONGEST) -> str:
    """Describe in one line what failed for one reason, which is cut to `longest` characters.

    Example:
        >>> failure_line([FailureGroup("vit", "iou", "no box", ("gmar", "attn_lrp"), ("a.jpg",))])
        'iou of 2 methods on a.jpg: no box'
    """
    first = failures[0]
    metrics = _some([each.metric.replace("_", " ") for each in failures if each.metric], "metrics")
    methods = _some(first.methods, "methods")
    what = " of ".join(part for part in (metrics, methods) if part)
    where = _some(first.images, "images")
    subject = f"{what} on {where}" if what else where
    return f"{subject}: {_short(first.reason, longest)}"


def _some(names: Sequence[str], things: str) -> str:
    """Return the only name, or the number of names."""
    return f"{len(names)} {things}" if len(names) > 1 else "".join(map(_short, names))


def _short(text: str, longest: int = LONGEST) -> str:
    """Cut a text to one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
