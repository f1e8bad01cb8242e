"""Assembly of the HTTP API."""
