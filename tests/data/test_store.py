import io
import threading
import zipfile
from pathlib import Path

import pytest
import yaml

from hn.data.download import DownloadError, digest
from hn.data.manifest import Manifest, load_manifest
from hn.data.store import PromptStore, files_by_size, identify

CONTENT = b"a dog\na cat\n"
FILTERED = b"a dog\n"


@pytest.fixture
def words(server, make_manifest):
    """The only file of a set at the server."""
    server.files["words.txt"] = CONTENT
    return make_manifest({"words": {"words.txt": ("test", CONTENT)}}, urls=[server.url()]).find("words")[0]


@pytest.fixture
def prompts_folder(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in ("1.txt", "2.txt"):
        (folder / name).write_text(f"prompt {name}")
    return folder


@pytest.fixture
def bench(server, make_manifest, prompts_folder, tmp_path):
    """A set that is one folder of a repository's zip archive at the server, and has the Git id of `prompts_folder`."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr("Repo-1/README.md", "read me")
        for path in prompts_folder.iterdir():
            contents.writestr(f"Repo-1/bench/prompts/{path.name}", path.read_bytes())
    server.files["zip/1"] = archive.getvalue()
    make_manifest({"bench": {"prompts": ("test", b"x")}}, urls=[server.url("zip/1")])
    path = tmp_path / "manifest.yaml"
    content = yaml.safe_load(path.read_text())
    file = content["sets"]["bench"]["files"]["prompts"]
    del file["sha256"]
    file |= {
        "prompts": 2,
        "unique": 2,
        "archive_folder": "bench/prompts",
        "git_tree": digest(prompts_folder, "git_tree"),
    }
    path.write_text(yaml.safe_dump(content))
    return Manifest(path).find("bench")[0]


def test_where_sets_are_kept(tmp_path, monkeypatch):
    (geneval,), (examples,) = load_manifest().find("geneval"), load_manifest().find("examples")
    assert PromptStore(tmp_path).path(geneval) == tmp_path / "geneval" / "evaluation_metadata.jsonl"
    monkeypatch.setenv("HN_PROMPTS", str(tmp_path / "env"))
    assert PromptStore().folder == tmp_path / "env"
    monkeypatch.delenv("HN_PROMPTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert PromptStore().folder == tmp_path / "cache" / "hn" / "prompts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert PromptStore().folder == Path.home() / ".cache" / "hn" / "prompts"
    with monkeypatch.context() as patch:  # a user without an entry in /etc/passwd
        patch.delenv("HOME")
        patch.setattr("pwd.getpwuid", lambda number: {}[number])
        assert PromptStore().folder.parts[-1] == "prompts" and "~" not in str(PromptStore().folder)
    assert PromptStore(tmp_path).require(examples) == Path(__file__).parents[2] / "data" / "prompts" / "examples.jsonl"


def test_a_file_is_fetched_once_and_verified(server, words, own_store):
    store = PromptStore()
    assert not store.is_here(words)
    with pytest.raises(FileNotFoundError, match="words/words is not at .*`hn prompts pull words/words` fetches it"):
        store.require(words)
    for _ in range(2):
        assert store.fetch(words).read_bytes() == CONTENT
    assert store.require(words) == own_store / "words" / "words.txt"
    assert len(server.asked) == 1


def test_several_processes_fetch_once(server, words):
    threads = [threading.Thread(target=PromptStore().fetch, args=(words,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert PromptStore().require(words).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_wrong_file_is_named_and_replaced_only_if_asked_for(server, words):
    store = PromptStore()
    path = store.fetch(words)
    path.write_bytes(CONTENT.replace(b"cat", b"cow"))
    for attempt in (store.require, store.fetch):
        with pytest.raises(
            ValueError, match=r"words\.txt is not prompt set words/words: its sha256 is .* fetches it anew"
        ):
            attempt(words)
    assert store.fetch(words, replace=True).read_bytes() == CONTENT
    store.fetch(words, replace=True)
    assert len(server.asked) == 2  # a right one is left as it is


def test_a_set_that_cannot_be_fetched_says_the_command(server, words, own_store):
    server.files.clear()
    with pytest.raises(DownloadError) as caught:
        PromptStore().fetch(words)
    for part in ("`hn prompts pull words/words`", "--from FOLDER", server.url("words.txt"), "404"):
        assert part in str(caught.value)
    server.files["words.txt"] = b"something else\n"
    with pytest.raises(DownloadError, match="wrong checksum"):
        PromptStore().fetch(words)
    assert [path.name for path in (own_store / "words").iterdir()] == [".words.txt.lock"]


def test_files_on_disk_are_known_by_their_content(words, tmp_path, own_store):
    folder = tmp_path / "some" / "where"
    folder.mkdir(parents=True)
    (folder / "words.txt").write_bytes(b"a dog\na cow\n")
    assert PromptStore().take(words, files_by_size(tmp_path / "some")) is None
    (folder / "other name").write_bytes(CONTENT)
    assert PromptStore().take(words, files_by_size(tmp_path / "some")) == folder / "other name"
    assert PromptStore().require(words).read_bytes() == CONTENT
    assert sorted(path.name for path in (own_store / "words").iterdir()) == [".words.txt.lock", "words.txt"]


def test_a_filtered_copy_is_taken_knowingly(words, tmp_path, make_manifest):
    make_manifest({"words": {"words.txt": ("test", CONTENT)}})
    path = tmp_path / "manifest.yaml"
    content = yaml.safe_load(path.read_text())
    (tmp_path / "have").mkdir()
    (tmp_path / "have" / "words.txt").write_bytes(FILTERED)
    counts = {"prompts": 1, "unique": 1, "bytes": len(FILTERED)}
    counts["sha256"] = digest(tmp_path / "have" / "words.txt", "sha256")
    content["sets"]["words"]["files"]["words"]["filtered"] = counts
    path.write_text(yaml.safe_dump(content))
    (file,) = Manifest(path).find("words")
    assert PromptStore().take(words, files_by_size(tmp_path / "have")) is None
    assert PromptStore().take(file, files_by_size(tmp_path / "have")) is not None
    version = identify(PromptStore().require(file), file)
    assert version.filtered and version.prompts == 1


def test_a_file_of_unknown_size_is_known_by_its_name_and_git_id(words, tmp_path, server):
    path = tmp_path / "manifest.yaml"
    content = yaml.safe_load(path.read_text())
    file = content["sets"]["words"]["files"]["words"]
    del file["sha256"]
    (tmp_path / "have").mkdir()
    (tmp_path / "have" / "renamed.txt").write_bytes(CONTENT)
    file |= dict.fromkeys(("prompts", "unique", "bytes"))
    file["git_blob"] = digest(tmp_path / "have" / "renamed.txt", "git_blob")
    path.write_text(yaml.safe_dump(content))
    (file,) = Manifest(path).find("words")
    assert PromptStore().take(file, files_by_size(tmp_path / "have")) is None
    (tmp_path / "have" / "renamed.txt").rename(tmp_path / "have" / "words.txt")
    assert PromptStore().take(file, files_by_size(tmp_path / "have")) is not None
    PromptStore().require(file).unlink()
    assert PromptStore().fetch(file).read_bytes() == CONTENT
    PromptStore().require(file).write_bytes(b"x")
    with pytest.raises(ValueError, match="its git_blob is"):
        PromptStore().require(file)


def test_a_folder_of_an_archive_is_fetched(server, bench, own_store, prompts_folder):
    server.cuts = [50]
    path = PromptStore().fetch(bench)
    assert {file.name: file.read_text() for file in path.iterdir()} == {
        file.name: file.read_text() for file in prompts_folder.iterdir()
    }
    assert sorted(file.name for file in (own_store / "bench").iterdir()) == [".prompts.lock", "prompts"]
    assert server.asked == [("zip/1", None), ("zip/1", "bytes=50-")]
    (path / "1.txt").write_text("changed")
    with pytest.raises(ValueError, match="is not prompt set bench/prompts: its git_tree is"):
        PromptStore().require(bench)
    assert PromptStore().fetch(bench, replace=True)
    PromptStore().require(bench)


def test_another_archive_leaves_nothing(server, bench, own_store):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr("Repo-1/bench/prompts/1.txt", "another prompt")
        contents.writestr("Repo-1/bench/prompts/2.txt", "another prompt")
    for wrong in (archive.getvalue(), b"no archive"):
        server.files["zip/1"] = wrong
        with pytest.raises(DownloadError, match="wrong checksum"):
            PromptStore().fetch(bench)
        assert [file.name for file in (own_store / "bench").iterdir()] == [".prompts.lock"]


def test_a_folder_on_disk_is_known_by_its_content(bench, prompts_folder):
    (prompts_folder.parent / "elsewhere").mkdir()
    found = prompts_folder.rename(prompts_folder.parent / "elsewhere" / "dpg")
    (found.parent / "dpg2").mkdir()
    assert PromptStore().take(bench, files_by_size(found.parent)) == found
    assert PromptStore().require(bench).is_dir()
    assert PromptStore().take(bench, files_by_size(found.parent / "dpg2")) is None


def test_something_else_in_the_place_is_named(bench, words, own_store):
    store = PromptStore()
    store.path(words).mkdir(parents=True)
    with pytest.raises(ValueError, match="it should be a file"):
        store.require(words)
    store.path(bench).parent.mkdir(parents=True)
    store.path(bench).write_text("a file")
    with pytest.raises(ValueError, match="it should be a folder"):
        store.require(bench)


def test_a_store_that_cannot_be_written_is_named(words, own_store):
    own_store.write_text("a file in the way")
    with pytest.raises(DownloadError, match=r"words/words is not at .*could not be fetched"):
        PromptStore().fetch(words)


def test_only_folders_are_searched(tmp_path):
    with pytest.raises(NotADirectoryError, match="nothing is not a folder"):
        files_by_size(tmp_path / "nothing")
