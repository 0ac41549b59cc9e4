"""The agent: networks, one update with a method in it, and RLlib's module and Learner around both."""
