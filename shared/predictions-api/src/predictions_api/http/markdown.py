"""Markdown as HTML that a web page can show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import nh3
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Mapping

_MARKDOWN: Final = MarkdownIt("js-default", {"html": True})  # with tables; nh3 removes what is unsafe in raw HTML


def render_markdown(text: str, urls: Mapping[str, str]) -> str:
    """Return sanitized HTML, whose links open a new tab. `urls` has the relative links that remain: path -> URL."""
    return nh3.clean(
        _MARKDOWN.render(text),
        url_schemes={"http", "https"},
        url_relative=urls.get,
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
