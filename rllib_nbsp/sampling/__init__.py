"""Acting: environments in lock step, the workers that step them, and what is asked of them."""
