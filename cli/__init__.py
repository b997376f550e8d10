"""Commands and their flags; imported first, and so the place to end on a system without support."""

import sys

from anamnesis import supported
from anamnesis.errors import UnsupportedError

try:
    supported.check()
except UnsupportedError as _error:
    print(f"error: {_error.kind}: {_error}", file=sys.stderr)
    sys.exit(_error.exit_code)
