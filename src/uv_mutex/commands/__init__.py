"""The commands of `uv-mutex`, a module or package for each."""
