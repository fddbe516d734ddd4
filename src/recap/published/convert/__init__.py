"""A configuration in the published form → one in ours: a file for each section."""
