"""What uv itself does: its command line, its projects, its executable."""
