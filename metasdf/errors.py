"""Errors a user can mend, and how commands end: one clear line and exit code 2, no traceback."""

import os
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
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:  # a full disk, a file where a folder is wanted
        print(f"error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        code = 2
    except MemoryError as error:
        print(f"error: not enough memory ({error}); make less at once", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
