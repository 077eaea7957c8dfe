"""The grid of the patch explorer's tests."""

ROWS, COLS = 6, 10  # not square, to detect swapped axes
