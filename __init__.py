"""Say it, get the mask: language-prompted segmentation, compiled for the edge."""
