"""JSON files, read with errors that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path, advice: str = "It is damaged: restore it or write it again.") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file, in UTF-8.
        advice: what to do about a file that is damaged, a sentence.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is not UTF-8, not JSON, or no object; names the file, and the line where there is one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}). {advice}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg}). {advice}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read. {advice}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {_NAMES[type(content)]}, not an object. {advice}")
    return content


_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
