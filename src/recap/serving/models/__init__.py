"""The models of a server: their versions on disk, which are loaded, and what each answers."""
