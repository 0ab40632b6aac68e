"""The commands of `uv-mutex`."""
