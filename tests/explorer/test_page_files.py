"""Pages are found again by the image that they state."""

from pathlib import Path

from vit_interactions.explorer.page_files import HEAD, image_id, image_of, pages_by_image

GENERATOR = '<meta name="generator" content="vit_interactions 1">'


def test_pages_are_found_by_their_image(tmp_path: Path) -> None:
    assert pages_by_image(tmp_path / "none") == {}
    own = f'{GENERATOR}<meta name="image" content="{image_id(Path("a/cat.jpg"))}">'
    contents = {
        "own": own,
        "without image": GENERATOR,
        "foreign": '<meta name="image" content="1">',
        "late": " " * HEAD + own,
        "hostile": f'{GENERATOR}<meta name="image" content="<script>">',
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.html").write_text(content)
    (tmp_path / "folder.html").mkdir()
    assert pages_by_image(tmp_path) == {image_id(Path("a/cat.jpg")): tmp_path / "own.html"}
    stated = {
        name: image_of(tmp_path / f"{name}.html") for name in ("without image", "foreign", "folder", "hostile")
    }
    assert stated == {"without image": "", "foreign": None, "folder": None, "hostile": ""}
