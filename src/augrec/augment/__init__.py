"""Training-time augmentations, one paper one module."""
