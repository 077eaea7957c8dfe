"""Reading images: the one place where image files are opened and made RGB and upright."""

from vit_interactions.images.reading import read_image as read_image
from vit_interactions.images.reading import to_rgb as to_rgb
