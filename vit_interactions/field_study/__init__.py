"""Test claims about responsive fields on many images, against null models."""
