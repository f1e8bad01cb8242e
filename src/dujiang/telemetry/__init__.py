"""Series of what jobs and machines report."""
