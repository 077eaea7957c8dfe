"""Tests of recognizing folders of results, with hostile manifests and links."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.quick_gallery import explain, image, value
from vit_interactions.gallery.folder import belongs_to, is_complete, is_results

pytestmark = pytest.mark.usefixtures("quick")


def test_hostile_manifests_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    out, cat = tmp_path / "out", image(tmp_path / "cat.jpg")
    target = image(tmp_path / "target")
    explain([cat], out)
    manifest = json.loads((out / "cat" / "manifest.json").read_text())
    files = {**manifest["files"], "../../target": None}
    for figures in (["../../target"], 3, None, [["x"]]):
        content = {**manifest, "figures": figures, "files": files}
        (out / "cat" / "manifest.json").write_text(json.dumps(content))
        assert not is_complete(out / "cat")
        explain([cat], out, resume=True)
        assert target.exists()
    shutil.rmtree(out)
    for done in ({str(cat): "../.."}, {str(cat): ["x"]}, 3):
        out.mkdir(exist_ok=True)
        (out / "manifest.json").write_text(json.dumps({"done": done}))
        assert explain([cat], out).failed == {}
    assert target.exists()


def test_links_are_not_results(tmp_path: Path) -> None:
    explain([image(tmp_path / "cat.jpg")], tmp_path / "real")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat").symlink_to(tmp_path / "real" / "cat")
    assert not is_results(tmp_path / "out" / "cat")
    report = explain([tmp_path / "cat.jpg"], tmp_path / "out", alpha=0.5)
    assert "is not a folder of explanations" in report.failed[str(tmp_path / "cat.jpg")]
    assert value(tmp_path / "real" / "cat") == 1.25
    assert belongs_to(tmp_path / "real" / "cat", tmp_path / "cat.jpg", "")
