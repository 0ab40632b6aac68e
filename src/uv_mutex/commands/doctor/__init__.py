"""`uv-mutex doctor`: is a project protected here, and what to do if it is not."""
