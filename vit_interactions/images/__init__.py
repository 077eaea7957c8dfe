"""Read image files, locate patches on the original image, and read object boxes and masks."""

from vit_interactions.images.reading import read_image as read_image
from vit_interactions.images.reading import to_rgb as to_rgb
