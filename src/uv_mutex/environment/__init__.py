"""What decides whether an environment is fresh, and what repairs one."""
