"""What tells weights apart."""

import os
from pathlib import Path

from hn.data.encodings.fingerprint import SAMPLE, SAMPLES, WHOLE, fingerprint


def test_a_change_anywhere_in_a_large_file_shows(tmp_path: Path) -> None:
    """Blocks are read all over the file, its first and last bytes among them."""
    file = tmp_path / "weights" / "model.safetensors"
    file.parent.mkdir()
    size = WHOLE + 1000
    with file.open("wb") as handle:
        handle.truncate(size)
    before = fingerprint(tmp_path, ["weights"])
    assert before == fingerprint(tmp_path, ["weights", "missing"])
    found = {before}
    places = [0, size - 1, 31 * (size - SAMPLE) // (SAMPLES - 1) + 5]
    for place in places:
        with file.open("r+b") as handle:
            handle.seek(place)
            handle.write(b"\1")
        found.add(fingerprint(tmp_path, ["weights"]))
    os.rename(file, file.with_name("other.safetensors"))
    found.add(fingerprint(tmp_path, ["weights"]))
    assert len(found) == 5
