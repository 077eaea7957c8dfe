"""Training with responsive-field supervision: where the windows come from, and what is done with them."""
