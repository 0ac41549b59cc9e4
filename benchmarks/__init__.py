"""Measurements of speed and of learning; nothing in the package imports this."""
