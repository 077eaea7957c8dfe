"""Datasets, loaders, class names and window stores for training and evaluation."""
