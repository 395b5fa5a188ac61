"""Runs: from names and typed settings to a run directory."""
