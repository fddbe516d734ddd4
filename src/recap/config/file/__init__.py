"""How a configuration file is read, checked, compared and described."""
