"""A batch → the vector that the network reads."""
