"""Readers of prompt files, one per format. All return rows: dictionaries with a prompt and its metadata."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PathLike = str | Path
Row = dict[str, Any]

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text")


def read_prompts(path: PathLike) -> list[Row]:
    """The rows of a prompt file, each with a non-empty string under "prompt".

    The suffix of the file, in any case, decides the format:
        `.jsonl`: one JSON object per line, with "prompt" and any other keys, like GenEval's "tag" and "include";
        `.txt`: one prompt per line;
        `.csv`: comma-separated with quoting as in RFC 4180; `.tsv`: tab-separated without quoting. The first line has
            the names of the columns. One of them is prompt, prompts, caption or text (in any case); the others become
            keys in lower case;
        `.json`: a list of prompts or of objects with "prompt", or an object whose values are prompts or such objects.
    A folder of `.txt` files has one prompt per file, in the order of their names; the row has the name without suffix
    under "item". Hidden files, whose names begin with a full stop, are passed over.
    Files are UTF-8, with or without a byte order mark. Blank lines are skipped and prompts stripped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the suffix is unknown, the file is not UTF-8 or escapes half a character, a line is malformed
            (the message has its number), or there are no prompts.
    """
    path = Path(path)
    if path.is_dir():
        reader = _read_folder
    elif not has_known_ending(path):
        *others, last = _READERS
        raise ValueError(f"{path}: prompt files end in {', '.join(others)} or {last}, not '{path.suffix}'")
    elif not path.is_file():
        where = "" if path.is_absolute() else f" below {Path.cwd()}, nor beside a YAML file that names it"
        raise FileNotFoundError(f"{path}: there is no such prompt file{where}")
    else:
        reader = _READERS[path.suffix.lower()]
    rows = list(reader(path))
    if not rows:
        raise ValueError(f"{path}: holds no prompts")
    return rows


def has_known_ending(path: PathLike) -> bool:
    """Whether the suffix of a file, in any case, is that of a format of `read_prompts`."""
    return Path(path).suffix.lower() in _READERS


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data[: error.start].count(b"\n") + 1) from None


def _not_utf8(path: Path, line: int) -> ValueError:
    return ValueError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8")


def _read_lines(path: Path) -> Iterator[Row]:
    return ({"prompt": line.strip()} for _, line in _lines(path) if line.strip())


def _read_jsonl(path: Path) -> Iterator[Row]:
    places = ((f"{path}, line {number}", line) for number, line in _lines(path) if line.strip())
    return (_row(_parse_json(line.strip(), place), place) for place, line in places)


def _read_json(path: Path) -> Iterator[Row]:
    text = _read_text(path)
    items = _parse_json(text, str(path)) if text.strip() else []
    if isinstance(items, dict):
        items = list(items.values())
    if not isinstance(items, list):
        raise ValueError(f'{path}: expected a JSON list of prompts, such as ["a dog", "a cat"]')
    rows = ({"prompt": item} if isinstance(item, str) else item for item in items)
    return (_row(row, f"{path}, item {number}") for number, row in enumerate(rows, 1))


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_table(path, delimiter=",")


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(path: Path, **dialect: Any) -> Iterator[Row]:
    # Line breaks are kept: a quoted field may contain some.
    reader = csv.reader((line for _, line in _lines(path)), strict=True, **dialect)
    columns: list[str] = []
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            if not any(fields):
                continue
            place = f"{path}, line {reader.line_num}"
            if not columns:
                columns = _columns(fields, place)
                continue
            if len(fields) != len(columns):
                raise ValueError(f"{place}: has {len(fields)} columns, the first line has {len(columns)}")
            yield _row(dict(zip(columns, fields, strict=True)), place)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a valid table ({error})") from None


def _columns(names: list[str], place: str) -> list[str]:
    """The names in lower case, with "prompt" for the column of prompts."""
    columns = [name.lower() for name in names]
    found = [name for name in PROMPT_COLUMNS if name in columns]
    if len(found) != 1 or len(set(columns)) < len(columns):
        raise ValueError(
            f"{place}: expected distinct names of columns, exactly one of them {', '.join(PROMPT_COLUMNS)}; "
            f"found {', '.join(repr(name)[1:-1][:80] for name in names[:20])}"
        )
    return ["prompt" if name == found[0] else name for name in columns]


def _read_folder(path: Path) -> Iterator[Row]:
    # The text of a whole file, line breaks included, is one prompt.
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() == ".txt" and not file.name.startswith(".") and file.is_file()
    )
    return (_row({"prompt": _read_text(file), "item": file.stem}, str(file)) for file in files)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, with their line ends."""
    # Read as bytes: text files also break lines at characters that a prompt may contain, like U+2028 or form feed.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise _not_utf8(path, number) from None


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{place}: not valid JSON ({error.msg} at {line}column {error.colno})") from None


def _row(row: Any, place: str) -> Row:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f'{place}: expected an object with a non-empty string "prompt", such as {{"prompt": "a dog"}}')
    try:  # JSON can escape one half of a surrogate pair
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"{error.object[error.start : error.end]!r}"
        raise ValueError(f"{place}: {half} is half a character, no valid Unicode; write the whole one") from None
    return {**row, "prompt": prompt.strip()}


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
}
