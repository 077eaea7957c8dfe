"""The summary arranged for figures."""

from math import isnan

from tests.helpers.pair_studies import record_of
from vit_interactions.pair_study.panels import panels
from vit_interactions.pair_study.summary import summarize_pairs


def test_the_first_method_is_on_top_and_the_others_follow_by_rank_correlation() -> None:
    records = {f"image{seed}.png": record_of(seed, noise=0.3) for seed in range(3)}
    summary = summarize_pairs(records, {"perfect": (1, 0), "opposite": (1, 1), "unrelated": (2, 2)})
    found = panels(summary)
    assert list(found) == ["rank correlation", "beyond distance", "and first order", "insertion - deletion"]
    first, *rest = found["rank correlation"].items()
    assert first[0] == "perfect"
    means = [mean for _, (mean, _, _) in rest]
    assert means == sorted(means, reverse=True)
    assert rest[-1][0] == "opposite"
    assert all(list(panel) == list(found["rank correlation"]) for panel in found.values())
    row = summary.set_index(["method", "score"]).loc["unrelated", "pair_area"]
    assert found["insertion - deletion"]["unrelated"] == (row["mean"], row["low"], row["high"])
    assert isnan(found["insertion - deletion"]["reliability"][0])
