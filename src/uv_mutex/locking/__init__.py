"""The project lock and the environment lock: take them, wait for them, release them."""
