"""What the tests stand on: made wheels, a counting index, real uv versions, the shim, projects and herds."""
