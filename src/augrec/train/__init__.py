"""One training loop for every backbone, objective and plug-in."""
