"""The published form: the YAML of the published ranker (`form/`), and its conversion to ours (`convert/`)."""
