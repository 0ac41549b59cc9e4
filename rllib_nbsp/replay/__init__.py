"""Transitions in memory: how they lie, which are kept, which an update is given."""
