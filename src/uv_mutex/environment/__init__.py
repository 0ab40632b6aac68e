"""Whether an environment is still as uv prepared it, and the recovery after uv was killed."""
