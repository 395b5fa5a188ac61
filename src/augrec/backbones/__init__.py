"""Encoders that score by an inner product, and the sober baselines beside them."""
