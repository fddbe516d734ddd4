"""Files → Arrow tables."""
