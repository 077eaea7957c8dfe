"""Images to train on and to evaluate on: class folders, class names, and what to do with unreadable images."""
