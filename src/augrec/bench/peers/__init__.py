"""Runners that work in the peers' own environments, where augrec is not installed: they import none of it."""
