"""REST: Open Inference Protocol v2, `POST /v1/rank`, OpenAPI, metrics, and a page to score by hand."""
