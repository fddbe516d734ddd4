"""The published form of a configuration: `form` is what it can say, `convert` turns it into ours."""
