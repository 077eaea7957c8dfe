"""Training images of which some cannot be read."""

from pathlib import Path

from tests.helpers.tiny_images import make_images


def spoil(data: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        content = (data / name).read_bytes()
        # Empty, cut short, PostScript by another name, or missing.
        (data / name).write_bytes([b"", content[: len(content) // 2], b"%!PS-Adobe-3.0 EPSF-3.0\n"][number % 3])


TRAINED_ON = ["class0/1.png", "class1/4.png", "class2/0.png", "class2/8.png"]


def training_data(folder: Path) -> Path:
    data = make_images(folder / "data")
    spoil(data / "train", TRAINED_ON)
    return data
