"""The notes of a comparison, in the page and in a notebook."""

import json
from pathlib import Path
from typing import Any

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
