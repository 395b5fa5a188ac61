"""Evaluation: exact ranking under a memory budget, accuracy and beyond-accuracy measures, and paired tests."""
