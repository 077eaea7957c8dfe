"""Compare pair maps with measured effects of pairs of patches, over many images."""
