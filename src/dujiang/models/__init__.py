"""Model registry, artifacts, deployments and the serving process."""
