"""The program that is called in place of uv."""
