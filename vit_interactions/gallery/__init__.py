"""What `vit-interactions explain` writes: a folder of results per image."""
