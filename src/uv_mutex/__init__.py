"""Run uv in parallel: one call at a time syncs a project, everything else goes straight to the real uv.

There is no public Python API: use the commands `uv` and `uv-mutex`, and the variables that README lists.

The packages from top to bottom: commands, setup, shim, records, environment, locking, uv. Each imports only from those
below it.
"""

# A herd of a hundred calls starts a hundred Pythons. So re, json, csv, subprocess, argparse, tomllib and filelock are
# imported inside the functions that need them, and what every guarded call imports does without typing and dataclasses,
# which take longer to import (8 and 12 ms) than the rest of the call takes: hence `TYPE_CHECKING = False`.
VERSION = "0.1.0"
