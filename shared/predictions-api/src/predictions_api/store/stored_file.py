"""The row of a file, and the headers of its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from predictions_api.store.file_urls import delivery_path

# Browsers may display these types. Others are saved, as an uploaded page would run with the origin of its URL.
INLINE_TYPES: Final = ("image/", "video/", "audio/", "text/plain")


@dataclass(frozen=True)
class File:
    """A row of the table. Times are microseconds since 1970, UTC."""

    id: str
    sha256: str
    md5: str
    name: str
    content_type: str
    size: int
    metadata: dict[str, Any]
    kind: str  # upload, output, input
    prediction_id: str | None
    created_at: int
    expires_at: int  # an output is kept until then, and as long as its prediction has its data

    @property
    def path(self) -> str:
        return delivery_path(self.id, self.name)

    @property
    def is_inline(self) -> bool:
        """Return whether browsers may display the file."""
        return self.content_type.startswith(INLINE_TYPES) and not self.content_type.startswith("image/svg")

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with the bytes, wherever they are stored."""
        quoted = quote(self.name)
        name = f'filename="{self.name}"' if quoted == self.name else f"filename*=utf-8''{quoted}"  # RFC 6266
        return {
            "Content-Type": self.content_type,
            "Content-Disposition": f"{'inline' if self.is_inline else 'attachment'}; {name}",
        }
