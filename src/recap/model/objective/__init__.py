"""The objective: outputs and labels → a loss for each task."""
