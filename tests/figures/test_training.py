"""Training curves."""

import pytest

from vit_interactions.figures.training import training_figure


def test_the_curves_are_the_rows() -> None:
    steps = [{"step": 1.0, "loss": 3.0, "lr": 0.1}, {"step": 2.0, "loss": 2.0, "lr": 0.05}]
    epochs = [{"step": 2.0, "eval_loss": 1.5, "eval_top1": 60.0, "eval_top5": None}]
    figure = training_figure(steps, epochs, "a $title$")
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["Loss", "Accuracy, %", "Learning rate"]
    points = [line.get_xydata().tolist() for line in panels["Loss"].get_lines()]
    assert points == [[[1.0, 3.0], [2.0, 2.0]], [[2.0, 1.5]]]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="must hold numbers of a training, but are empty"):
        training_figure([], [])
