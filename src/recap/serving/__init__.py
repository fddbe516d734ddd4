"""A server of models: one request is a user and candidates, the response their scores."""
