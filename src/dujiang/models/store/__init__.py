"""The tables of models and deployments and their statements."""
