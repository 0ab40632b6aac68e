"""Run uv in parallel: one call at a time syncs a project, everything else goes straight to the real uv."""

VERSION = "0.1.0"
