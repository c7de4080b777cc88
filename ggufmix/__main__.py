"""`python -m ggufmix` is the `ggufmix` command."""

# SPDX-License-Identifier: MIT

import signal


def main() -> None:
    """Entry point of the `ggufmix` command. Before it has begun and when all is done, Ctrl-C ends
    the process without a word of Python's.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as command

    try:
        command()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
