"""What only a GPU can show: `python -m benchmarks.gpu` says what is right and how fast it is there."""
