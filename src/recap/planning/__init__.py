"""What a run needs on given ranks, from its configuration alone: memory, work, exchange and time of a step."""
