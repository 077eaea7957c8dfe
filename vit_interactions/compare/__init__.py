"""Explanations side by side: numbers, pictures and pages."""
