"""How commands meet the console: messages, exit codes, one clear line for bad input."""

import logging
import os
import sys
from collections.abc import Callable

from tqdm import tqdm

from metasdf.errors import InputError


class ConsoleHandler(logging.Handler):
    """Shows what the library logs: warnings on stderr, the rest on stdout, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(self.format(record), file=stream)


def run_command(main: Callable[[], int]) -> None:
    """Run a command's `main` and exit with the code it returns.

    Exit codes: 0 all went well, 1 some shapes failed (they were reported by name), 2 bad input,
    3 all were meshed but some are not to be trusted, 130 interrupted. Output reaches pipes and log
    files line by line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    logger = logging.getLogger("metasdf")
    logger.setLevel(logging.INFO)
    logger.handlers = [ConsoleHandler()]
    logger.propagate = False
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
    finally:
        logger.handlers, logger.propagate = [], True
    sys.exit(code)
