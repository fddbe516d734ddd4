"""The file of `recap data aggregate`."""
