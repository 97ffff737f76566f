import zipfile

import pytest

from hn.data.download import extract_folder


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "repository.zip"
    with zipfile.ZipFile(path, "w") as contents:
        contents.writestr("Repo-123/bench/prompts/", "")
        contents.writestr("Repo-123/bench/prompts/1.txt", "a dog")
        contents.writestr("Repo-123/bench/prompts/2.txt", "a cat")
        contents.writestr("Repo-123/bench/prompts/more/3.txt", "too deep")
        contents.writestr("Repo-123/bench/other.txt", "elsewhere")
        contents.writestr("Repo-123/prompts/4.txt", "elsewhere")
    return path


def test_one_folder_is_taken_and_replaces_what_was_there(archive, tmp_path):
    folder = tmp_path / "set" / "prompts"
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("old")
    extract_folder(archive, "bench/prompts", folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"1.txt": "a dog", "2.txt": "a cat"}
    assert [path.name for path in folder.parent.iterdir()] == ["prompts"]


def test_wrong_archives_leave_nothing(archive, tmp_path):
    folder = tmp_path / "set" / "prompts"
    with pytest.raises(ValueError, match="has no folder bench/nothing"):
        extract_folder(archive, "bench/nothing", folder)
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"repository\.zip is not a zip archive"):
        extract_folder(archive, "bench/prompts", folder)
    assert list(folder.parent.iterdir()) == []
