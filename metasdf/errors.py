"""Errors a user can mend, and how commands end: one clear line and exit code 2, no traceback."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input. The message says what is wrong, where (file, key, line) and what to do."""


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main` and exit with the code it returns.

    Exit codes: 0 all went well, 1 some shapes failed (they were reported by name), 2 bad input,
    130 interrupted.
    """
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
