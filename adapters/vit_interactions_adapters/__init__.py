"""Bridges between vit_interactions and other libraries; each is imported only when it is used."""
