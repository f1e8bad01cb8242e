"""What follows by itself: versions get their files, deployments come up, move and go."""

from dujiang.models.loop.deployments import DeploymentLoop
from dujiang.models.loop.registration import RegistrationLoop

__all__ = ["DeploymentLoop", "RegistrationLoop"]
