"""Batches and exact samplers: a split in, packed tensors out."""
