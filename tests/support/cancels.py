"""A cancel before any bytecode, such as Cog's, which is an exception of a signal handler."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType

# Before the bytecode after one of these, Python 3.11 calls the handlers of signals.
CHECKED = frozenset({"CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"})


class Cancelled(BaseException):
    """Like Cog's CancelationException: a BaseException that is raised between any two bytecodes."""


class _CancelAt:
    """A trace function that raises Cancelled at the moment `number` in the code of some files."""

    def __init__(self, number: int, files: tuple[str, ...]) -> None:
        self.number, self.files = number, files
        self.previous: dict[FrameType, str] = {}
        self.raised = False

    def __call__(self, frame: FrameType, event: str, _: object) -> _CancelAt | None:
        if self.raised or not frame.f_code.co_filename.endswith(self.files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before = self.previous.get(frame)
            self.previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self.number -= before in CHECKED
            if not self.number:
                self.previous, self.raised = {}, True
                raise Cancelled
        return self


def cancelled_at_every_moment(work: Callable[[], object], files: tuple[str, ...]) -> Iterator[int]:
    """Do the work again and again, cancelled one moment later each time. Yield the number of the moment after each.

    Only moments in the code of `files`, ends of paths, count. The last time the work comes to its end.
    """
    for number in count(1):
        trace, cancelled = _CancelAt(number, files), False
        try:
            sys.settrace(trace)
            work()
        except Cancelled:
            cancelled = True
        finally:
            sys.settrace(None)
        assert cancelled == trace.raised, number
        yield number
        if not cancelled:
            return
