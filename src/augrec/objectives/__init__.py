"""Ranking objectives: a batch, its encoding and the plug-ins' additions in, a loss out."""
