"""The doors to models: the registry of versions, and deployments."""

from dujiang.models.service.deployments import DeploymentService
from dujiang.models.service.registry import ModelRegistry

__all__ = ["DeploymentService", "ModelRegistry"]
