"""Speed measurements; nothing in the package imports this."""
