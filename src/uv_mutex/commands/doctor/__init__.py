"""`uv-mutex doctor`: check whether a project is protected on this host, and say what to do if it is not."""
