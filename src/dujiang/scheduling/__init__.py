"""Who runs next, where, and why the others wait."""
