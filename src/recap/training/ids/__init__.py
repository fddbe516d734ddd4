"""Ids that have rows of their own in a table while they are frequent: which have them, and which lose them."""
