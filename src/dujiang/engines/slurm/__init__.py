"""The Slurm engine: attempts as batch jobs of an ordinary user, over Slurm's own commands and a shared work folder."""
