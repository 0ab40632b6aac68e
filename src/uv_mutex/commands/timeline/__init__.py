"""`uv-mutex timeline`: draw a UV_MUTEX_LOG."""
