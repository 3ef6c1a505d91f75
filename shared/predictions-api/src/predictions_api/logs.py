"""Logs on stderr, with the prediction's id where it is known: text on a terminal, elsewhere one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from dbos._error import DBOSAwaitedWorkflowCancelledError


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


TEXT = logging.Formatter("%(asctime)s %(levelname)s %(message)s %(prediction)s", "%X", defaults={"prediction": ""})


def set_up(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TEXT if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore"):  # they log each URL, which may contain a key
        logging.getLogger(noisy).setLevel(logging.WARNING)
    dbos = logging.getLogger("dbos")
    dbos.handlers = [handler]
    dbos.propagate = False
    dbos.addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for what DBOS logs when a workflow is removed from its queue, the server stops or workers go."""
    error = record.exc_info[1] if record.exc_info else None
    is_shutdown = isinstance(error, RuntimeError) and str(error) == "cannot schedule new futures after shutdown"
    text = record.getMessage()
    is_smaller = "exceeds the global concurrency limit" in text  # at each poll until a run has ended
    is_handed_over = text.startswith("Asyncio task cancelled")  # the next process runs it again
    return not (is_shutdown or is_smaller or is_handed_over or isinstance(error, DBOSAwaitedWorkflowCancelledError))
