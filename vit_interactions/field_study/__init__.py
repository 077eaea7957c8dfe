"""Test claims about responsive fields on many images, beside null models."""
