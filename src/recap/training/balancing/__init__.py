"""Losses of tasks → the gradients of a step. `recap.config.optimizer` describes each kind."""
