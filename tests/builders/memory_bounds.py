"""What a process may hold besides what its plan says."""

from __future__ import annotations

from anamnesis.limits import MiB

# The first process on a machine that needs a kernel compiles it, for so much more.
COMPILE_BYTES = 72 * MiB
