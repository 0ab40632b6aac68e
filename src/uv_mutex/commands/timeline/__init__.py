"""`uv-mutex timeline`: a UV_MUTEX_LOG as a picture."""
