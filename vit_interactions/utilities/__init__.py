"""Helpers that know nothing of models: names of files, locks, and errors of writing."""
