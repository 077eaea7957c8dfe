"""Write the results of `vit-interactions explain`: one folder per image."""
