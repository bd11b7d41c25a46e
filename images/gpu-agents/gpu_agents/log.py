"""One line a message, as JSON on standard error."""

import json
import sys
from datetime import UTC, datetime


def info(message: str, **fields: object) -> None:
    _write("info", message, fields)


def error(message: str, **fields: object) -> None:
    _write("error", message, fields)


def _write(level: str, message: str, fields: dict[str, object]) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)
