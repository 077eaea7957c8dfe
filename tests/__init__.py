"""Tests of the package; a package itself, so that test modules can import `tests.helpers`."""
