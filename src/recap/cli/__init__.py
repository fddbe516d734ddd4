"""The command line: a file per command. Each imports its work only when it runs, so that help answers at once."""
