"""Install the shim, put it first on PATH, and undo both."""
