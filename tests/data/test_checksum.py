import hashlib

import pytest

from hn.data.download import digest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, content in {"1.txt": "a red ball", "10.txt": "two cubes\non a table\n", "a.txt": " a dog "}.items():
        (folder / name).write_text(content)
    return folder


def test_checksums_are_those_of_git_and_sha256sum(folder):
    # Expected: `git hash-object`, `git write-tree` and `git ls-tree` of these files.
    assert digest(folder / "10.txt", "git_blob") == "866f92c6e6aac79b5df00f3115466ab560c4ebbf"
    assert digest(folder, "git_tree") == "ebf967f584af88768fd74c235751b473b2cb1187"
    assert digest(folder / "10.txt", "sha256") == hashlib.sha256(b"two cubes\non a table\n").hexdigest()


def test_a_tree_depends_on_every_name_and_byte(folder):
    before = digest(folder, "git_tree")
    (folder / "a.txt").write_text(" a dog")
    assert digest(folder, "git_tree") != before
    (folder / "a.txt").write_text(" a dog ")
    (folder / "a.txt").rename(folder / "b.txt")
    assert digest(folder, "git_tree") != before


def test_an_unknown_kind_is_named(folder):
    with pytest.raises(ValueError, match="'md5': sha256, git_blob or git_tree"):
        digest(folder, "md5")
