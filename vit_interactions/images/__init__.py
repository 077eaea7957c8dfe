"""Reading images: the one place where image files are opened and made RGB and upright."""

from vit_interactions.images.reading import read_image as read_image
from vit_interactions.images.reading import upright_rgb as upright_rgb
