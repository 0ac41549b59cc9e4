"""Networks, losses and the arithmetic of neurons: torch alone."""
