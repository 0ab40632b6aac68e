"""`python -m uv_mutex` is the `uv-mutex` command."""

import sys

from uv_mutex.cli import main

sys.exit(main())
