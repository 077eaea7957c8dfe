"""Every method has a citation, and all citations can be parsed."""

import re

import pytest

from vit_interactions import EXPLAINERS
from vit_interactions.compare.report.citations import citations, cited
from vit_interactions.explain.registry import all_methods
from vit_interactions.metrics import METRICS


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_explainer_is_cited(name: str) -> None:
    assert citations([name])


def test_every_method_of_other_libraries_is_cited_by_a_paper_or_its_library() -> None:
    without = {name for name, method in all_methods().items() if name not in cited()}
    assert without == {"feature_ablation"}  # captum's own
    assert {method.library for method in all_methods().values()} - {"vit_interactions"} <= cited()


def test_every_metric_with_a_paper_is_cited() -> None:
    assert {name for name in METRICS if name not in cited()} <= {"iou", "average_precision"}


def test_entries_are_whole() -> None:
    entries = citations(cited())
    keys = [re.match(r"@(misc|article|inproceedings)\{([a-z0-9]+),", entry) for entry in entries]
    assert all(keys)
    assert len({key[2] for key in keys if key}) == len(entries) > 30
    for entry in entries:
        assert entry.count("{") == entry.count("}"), entry
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = \{", entry, re.MULTILINE)), entry
        year = re.search(r"year = \{(\d{4})\}", entry)
        assert year, entry
        assert 1990 < int(year[1]) < 2030


def test_names_of_methods_agree_with_their_sources() -> None:
    # The first author of a method's source is one of those that its entries name.
    for name, method in all_methods().items():
        first = re.match(r"(?:after |random baseline, after )?(\w+)(?: et al\.|,| and )", method.source)
        if first and name in cited():
            assert first[1] in " ".join(citations([name])), name


def test_each_entry_is_given_once() -> None:
    both = citations(["attention_flow", "attention_rollout", "unheard_of"])
    assert len(both) == 1
    assert "Abnar" in both[0]
    assert citations([]) == []
