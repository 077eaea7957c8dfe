"""`vi.explorer`: its arguments, and its page in a notebook."""

import html
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import vit_interactions as vi


def test_arguments_are_checked(model: nn.Module, tmp_path: Path) -> None:
    image = Image.new("RGB", (50, 50))
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\], got 1.5"):
        vi.explorer(model, image, alpha=1.5)
    with pytest.raises(ValueError, match=r"`beta` must lie in \[0, 1\], got -1"):
        vi.explorer(model, image, beta=-1)
    with pytest.raises(TypeError, match=r"`image` must be a path or a PIL image, got Tensor\."):
        vi.explorer(model, torch.zeros(1, 3, 64, 64))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        vi.explorer(model, tmp_path / "gone.png")
    with pytest.raises(ValueError, match="must be a timm model"):
        vi.explorer("no_such_vit", image)


def test_a_notebook_shows_the_page_in_a_frame(file: Path) -> None:
    text = file.read_text()
    shown = vi.ExplorerPage(text)._repr_html_()
    frame = re.fullmatch(r'<iframe sandbox="allow-scripts" srcdoc="([^"]*)" [^<]*></iframe>', shown)
    assert frame
    assert html.unescape(frame[1]) == text
