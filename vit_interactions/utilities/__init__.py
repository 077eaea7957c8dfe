"""Helpers that do not depend on models: files, locks, names, seeds, processes, console."""
