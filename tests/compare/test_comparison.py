"""The notes of a comparison, in the page and in a notebook."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import vit_interactions as vi
from tests.helpers.compared import make_model
from tests.helpers.resumed import METHODS, compare
from vit_interactions.compare.report.page import report
from vit_interactions.figures import prepare
from vit_interactions.images import read_image
from vit_interactions.training.export import export_model


def test_notes_name_open_windows_and_other_windows_than_in_training(root: Path) -> None:
    model = make_model()
    export_model(model, root / "trained", arguments={"img_size": 64}, windows={"alpha": 0.5, "beta": 0.2})
    name = f"local-dir:{root / 'trained'}"
    common: dict[str, Any] = {"model": {"<b>vit</b>": name}, "metrics": []}
    for number, (alpha, methods, notes) in enumerate(
        [
            (0.5, METHODS, ["all patch pairs"]),  # of 16 patches every second pair: windows of nearly all
            (0.5, ["raw_attention"], []),
            (0.01, METHODS, ["<b>vit</b> was trained with --alpha 0.5, not 0.01"]),
        ]
    ):
        comparison = compare(root, **common, alpha=alpha, methods=methods, out=root / f"out-{number}")
        found = comparison.notes()
        assert len(found) == len(notes)
        assert all(note in text for note, text in zip(notes, found, strict=True))
        page = report(comparison, root / "report.html").read_text()
        for html in (page, comparison._repr_html_()):
            assert html.count("Note. ") == len(notes)
            assert "<b>vit" not in html
    image = prepare(read_image(root / "images" / "a.png"), model).input[None]
    windows = vi.responsive_field(
        vi.InteractionUncertainty(model).uncertainty(image), (4, 4), alpha=0.5, beta=0.2
    ).windows[0]
    pairs = sum((right - left + 1) * (bottom - top + 1) for left, top, right, bottom in windows.tolist())
    record = json.loads((root / "out-0" / "records" / "b-vit-b" / "a.json").read_text())
    assert record["window_fraction"] == pairs / 16**2 > 0.9


def test_coverage_is_that_of_all_windows_of_the_run(root: Path) -> None:
    model = make_model()
    export_model(model, root / "trained", arguments={"img_size": 64}, windows={"window_coverage": 0.7})
    common: dict[str, Any] = {"model": {"vit": f"local-dir:{root / 'trained'}"}, "metrics": [], "alpha": 0.2}
    found = {}
    for coverage in (None, 1.0, 0.7):
        chosen = {} if coverage is None else {"coverage": coverage}
        comparison = compare(root, **common, methods=["responsive_field_size"], out=root / f"{coverage}", **chosen)
        found[coverage] = comparison.maps("vit", "a")["responsive_field_size"]
        record = comparison.record("vit", "a")
        image = prepare(read_image(root / "images" / "a.png"), model).input[None]
        uncertainty = vi.InteractionUncertainty(model).uncertainty(image)
        field = vi.responsive_field(uncertainty, (4, 4), 0.2, 0.2, coverage=coverage or 1.0)
        sign = -1 if vi.ResponsiveFieldSize(model).more_is_relevant is False else 1
        assert (sign * found[coverage].ravel() == field.size[0].numpy()).all()
        left, top, right, bottom = field.windows[0].unbind(-1)
        assert record.window_fraction == int(((right - left + 1) * (bottom - top + 1)).sum()) / 16**2
        notes = [] if coverage == 0.7 else ["vit was trained with --window-coverage 0.7, not 1"]
        assert [note for note in comparison.notes() if "trained" in note] == notes
        assert "<dt>coverage</dt>" in report(comparison, root / "report.html").read_text()
    assert (found[None] == found[1.0]).all()
    assert abs(found[0.7]).sum() < abs(found[1.0]).sum()
    with pytest.raises(ValueError, match=r"`coverage` must lie in \[0, 1\], got 1\.5"):
        compare(root, **common, coverage=1.5, out=root / "wrong")


def test_notes_count_attention_sinks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("vit_interactions.functional.attention_sinks")
    monkeypatch.setattr(module, "FAIR_SHARES", 1.3)
    monkeypatch.setattr(module, "DEVIATIONS", 0.0)
    model = make_model()
    counts = [
        int(vi.attention_sinks(model, prepare(read_image(path), model).input[None]).patches.sum())
        for path in sorted((root / "images").iterdir())
    ]
    found = [count for count in counts if count]
    assert found
    expected = f"attention sinks in {len(found)} of {len(counts)} images, on average {sum(found) / len(found):.1f}"
    common: dict[str, Any] = {"model": {"vit": model}, "metrics": [], "alpha": 0.01}
    maps = []
    for exclude in (False, True):
        methods = ["interaction_uncertainty"]
        out = root / f"sinks-{exclude}"
        comparison = compare(root, **common, methods=methods, out=out, exclude_sinks=exclude)
        [note] = comparison.notes()
        assert expected in note
        assert ("`--exclude-sinks` leaves them out" in note) != exclude
        assert expected in report(comparison, root / "report.html").read_text()
        assert comparison.settings["exclude_sinks"] == exclude
        maps.append(comparison.maps("vit", "a")["interaction_uncertainty"])
    sinks = vi.attention_sinks(model, prepare(read_image(root / "images" / "a.png"), model).input[None]).patches
    marked = sinks.reshape(maps[0].shape).numpy()
    assert (maps[1][marked] == 0).all()
    assert (maps[1][~marked] == maps[0][~marked]).all()
    [*notes] = compare(root, **common, methods=["raw_attention"], out=root / "no-u").notes()
    assert not notes
