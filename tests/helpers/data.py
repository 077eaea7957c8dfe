"""Paths of the trained model and the images that some tests use."""

import os
from pathlib import Path

DATA = Path(os.environ.get("VIT_INTERACTIONS_DATA", Path(__file__).parents[3] / "shared" / "data"))

WEIGHTS = DATA / "weights" / "vit_tiny_patch16_224.tiny_imagenet_200.safetensors"

IMAGES = DATA / "imagenet_samples"
