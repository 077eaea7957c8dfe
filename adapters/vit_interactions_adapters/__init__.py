"""Bridges between vit_interactions and its neighbours; each is imported only where it is used."""
