"""Failures in one line."""

from vit_interactions.compare.report.failures import failure_line, failures_by_reason
from vit_interactions.compare.report.tables import (
    FailureGroup,
)


def test_failed_images_come_before_unsupported_metrics() -> None:
    unsupported = [
        FailureGroup("vit", metric, "no box", ("gmar",), ("a.jpg",)) for metric in ("iou", "pointing_game")
    ]
    lost = FailureGroup("vit", "", "no image", (), ("b.jpg",))
    assert [len(alike) for alike in failures_by_reason([*unsupported, lost])] == [1, 2]
    assert failure_line([lost]) == "b.jpg: no image"
    assert failure_line(unsupported) == "2 metrics of gmar on a.jpg: no box"
