"""Ends of a training that are meant: all processes come to them at the same batch, so a checkpoint can be written."""

from __future__ import annotations

import signal


class StoppedBySignal(SystemExit):
    """A signal asked the run to stop. Uncaught, it ends the process with 128 + the signal's number, as shells expect.

    Args:
        signum: like SIGINT or SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.reason = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


class TrainingStopped(RuntimeError):
    """Training cannot usefully continue; the message says why, and what to try."""


AGREED = (StoppedBySignal, TrainingStopped)
"""What all processes of a run raise at the same batch."""
