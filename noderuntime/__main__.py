"""`python -m noderuntime`, and the `noderuntime` command itself.

Ctrl-C while modules are still being imported ends the process by that signal, without a traceback of ours. Once the
command is over it does nothing: the exit code is the command's.
"""

import signal
import sys


def main() -> int:
    """Carry out the command line of this process and return its exit code."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else it is ignored, or the caller's
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from noderuntime.cli import main as carry_out  # not before: it imports much

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    code = carry_out()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
