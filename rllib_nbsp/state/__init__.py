"""A run's state on disk, from which it goes on to the last bit."""
