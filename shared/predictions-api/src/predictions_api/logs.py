"""Logs on stderr: one JSON object a line, with the prediction's id where it is known."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from dbos._error import DBOSAwaitedWorkflowCancelledError

REPETITION_INTERVAL = 10.0  # seconds


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        members = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("predictions_api."),
            "message": record.getMessage(),
        }
        if prediction := getattr(record, "prediction", None):
            members["prediction"] = str(prediction)
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, ensure_ascii=False)


class Repetitions(logging.Filter):
    """Drops messages that repeat one of the last 10 seconds. asyncio repeats some 2,000 times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message, moment = record.getMessage(), time.monotonic()
        self._times = {text: at for text, at in self._times.items() if at > moment - REPETITION_INTERVAL}
        is_new = message not in self._times
        self._times.setdefault(message, moment)
        return is_new


def set_up(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore"):  # they log each URL, which may contain a key
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(Repetitions())
    dbos = logging.getLogger("dbos")
    dbos.handlers = [handler]
    dbos.propagate = False
    dbos.addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for errors that DBOS logs when a workflow is removed from its queue or the server stops."""
    error = record.exc_info[1] if record.exc_info else None
    is_shutdown = isinstance(error, RuntimeError) and str(error) == "cannot schedule new futures after shutdown"
    return not (is_shutdown or isinstance(error, DBOSAwaitedWorkflowCancelledError))
