"""From task losses to the gradients of a step. `recap.config.optimizer` describes each kind."""
