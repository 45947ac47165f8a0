"""Ctrl-C and the stop button of a notebook: they end a task between two steps, with nothing lost."""

import signal
import threading

from . import distributed


class Stopped(KeyboardInterrupt):
    """A task was interrupted after a step. A notebook shows its one line in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Interrupts:
    """A context in which the first interrupt is held back, so that a step is not left half done; a second one is not.

    It is held back where Python would raise KeyboardInterrupt: in the main thread, unless the program handles the
    signal itself. Of several processes each may be in another step, so nothing is held back there.

    Attributes:
        due: whether an interrupt has come. Who sees it raises `Stopped`; if nobody does, KeyboardInterrupt is raised at
            the end of the context.
    """

    def __init__(self):
        self.due = self.held_back = False

    def __enter__(self) -> "Interrupts":
        raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if raises and threading.current_thread() is threading.main_thread() and distributed.count() == 1:
            signal.signal(signal.SIGINT, self._note)
            self.held_back = True
        return self

    def _note(self, number, frame) -> None:
        if self.due:
            raise KeyboardInterrupt
        self.due = True

    def __exit__(self, kind, error, traceback) -> None:
        if self.held_back:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.due and kind is None:
            raise KeyboardInterrupt
