"""Losses of tasks → the gradients of a step. What each kind is for stands in `recap.config.optimizer`."""
