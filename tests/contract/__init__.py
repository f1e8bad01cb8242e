"""What every engine promises, and each engine held to it."""
