"""Train classifiers with and without the windows of a teacher, and evaluate them."""
