"""Searches the values of a configuration that give the best watched metric."""
