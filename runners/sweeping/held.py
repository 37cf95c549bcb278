"""Starts a program with Slurm's signals held back, until the program is ready for them.

The signal of a preemption that comes while Python starts would end the job as failed; held, it is obeyed a moment later.
"""

import os
import signal
import sys

HELD = (signal.SIGUSR1, signal.SIGUSR2)


def main(program: list[str]) -> None:
    """Becomes the program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    os.execv(program[0], program)


def let_through() -> None:
    """The program is ready."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


if __name__ == "__main__":
    main(sys.argv[1:])
