"""From evidence to cause: signatures and diagnosis."""
