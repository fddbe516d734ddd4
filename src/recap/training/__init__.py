"""How a model learns, and how nothing of it gets lost."""
