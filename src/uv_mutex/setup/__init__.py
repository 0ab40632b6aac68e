"""Install the shim, and put it first on PATH."""
