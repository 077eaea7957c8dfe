"""Evidence of one block by hand, and the display of its frames."""

import pytest
import torch

from vit_interactions.functional.accumulated_attention import accumulate, block_evidence, display_frames


def test_one_block_by_hand() -> None:
    # H = 2, d = 1, tokens (class, p1, p2): F = [[.5, 0], [.6, .6], [-.2, .9]], c = (2, -1)
    attention = torch.tensor([[[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]]])
    value = torch.tensor([[[[1.0], [2.0], [-1.0]], [[0.0], [1.0], [3.0]]]])
    gradient = torch.tensor([[[[2.0]], [[-1.0]]]])
    signed = block_evidence(attention, gradient, value, rectify=False)
    assert torch.allclose(signed, torch.tensor([[1.0, 0.6, -1.3]]))
    assert torch.allclose(signed.sum(), torch.tensor(2 * 0.9 - 1 * 1.5))
    rectified = block_evidence(attention, gradient, value)
    assert torch.allclose(rectified, torch.tensor([[1.0, 1.2, -0.4]]))
    assert torch.allclose(accumulate(rectified[:, None, 1:]), torch.tensor([[[1.2, 0.0]]]))
    assert torch.allclose(accumulate(signed[:, None, 1:]), torch.tensor([[[0.6, 0.0]]]))


def test_display_of_the_published_code() -> None:
    frames = torch.tensor([[[0.0, 0.2, 0.4], [0.0, 0.5, 1.0]]], dtype=torch.float64)
    shown = display_frames(frames)
    assert torch.allclose(shown.amax(-1), torch.ones(1, 2, dtype=torch.float64))  # every frame spans 0..1
    assert torch.allclose(shown[0, 1, 1], torch.tensor(0.859793, dtype=torch.float64), atol=1e-6)
    assert int(shown[0, 1, 1] * 255) == 219
    assert (display_frames(torch.full((1, 2, 3), 0.7)) == 0).all()  # constant: nothing to show, no NaN
    assert (display_frames(torch.zeros(1, 2, 3)) == 0).all()


def test_global_display_keeps_early_frames_dim() -> None:
    frames = torch.tensor([[[0.0, 0.2, 0.4], [0.0, 0.5, 1.0]]])
    assert torch.allclose(display_frames(frames, "global"), torch.tensor([[[0.0, 0.2, 0.4], [0.0, 0.5, 1.0]]]))
    raised = torch.tensor([[[0.0, 0.3], [0.2, 1.0]]])
    # min D_L = .2: frame 1 is (0 - .2, .3 - .2) / .1 clipped, times (.3 / .8)
    assert torch.allclose(display_frames(raised, "global"), torch.tensor([[[0.0, 0.375], [0.0, 1.0]]]))
    with pytest.raises(ValueError, match="`mode` must be one of 'sigmoid', 'global', got 'other'"):
        display_frames(frames, "other")  # type: ignore[arg-type]
