"""Text from files, made safe for the place where it is shown: a name may hold anything."""

import json
import re
from typing import Any

from runners.process.errors import plain

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
MARKDOWN_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after the end of a row, [ and * would be its arguments
        "*": "{*}",
        '"': "{''}",
        **{character: f"\\{character}" for character in "_%&#${}"},
    }
)


def shown(value: Any) -> str:
    """A plain value as text on one line: nothing for null, JSON for what is no text."""
    if value is None:
        return ""
    return plain(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def csv_cell(value: Any) -> str:
    """A value for a CSV file; text that a spreadsheet would run as a formula begins with an apostrophe, a number does not."""
    text = shown(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text) else text


def markdown(text: str) -> str:
    """Text for Markdown, in which nothing is a tag, a link, emphasis or the edge of a cell."""
    marked = re.sub(r"([\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", plain(text))
    return marked.translate(MARKDOWN_ENTITIES)


def latex(text: str) -> str:
    """Text for LaTeX, without its commands; what is not ASCII shows as Python writes it, which any font can set."""
    return plain(text).encode("ascii", "backslashreplace").decode().translate(LATEX)
