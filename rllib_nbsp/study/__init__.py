"""Studies: a YAML file to checked trials, to what they need, to Ray Tune."""
