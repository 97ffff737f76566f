"""A column of a data set on the Hub, by the package `datasets` on local files in the Hub's place."""

import json
from functools import partial
from pathlib import Path

import pytest

from hn.data import PromptDataset
from hn.data.download import DownloadError
from hn.data.hub import HubPrompts
from hn.data.sources import parse_sources

ADDRESS = "hf://owner/name/train/caption"


@pytest.mark.parametrize(
    ("address", "parts", "file"),
    [
        (ADDRESS, ("owner/name", None, None, "train", "caption"), "owner/name/train-caption.jsonl"),
        (
            "hf://o.w/na-me@0123abc/default/test/the prompt",
            ("o.w/na-me", "0123abc", "default", "test", "the prompt"),
            "o.w/na-me@0123abc/default-test-the prompt.jsonl",
        ),
    ],
)
def test_addresses(address, parts, file):
    (source,) = parse_sources({address: 0.5}, "train")
    assert source.files == (HubPrompts(*parts),) and source.weight == 0.5
    assert str(source.files[0]) == address
    assert source.files[0].path == Path("hub", file)


@pytest.mark.parametrize("address", ["hf://owner/name", "hf://name/train/caption", "hf://a/b/c/d/e/f", "hf://a/b//c"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"are addressed as hf://OWNER/NAME\[@REVISION\]"):
        parse_sources(address, "train")


def test_without_the_package_the_command_is_named(own_store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=rf"{ADDRESS}: .* pip install 'hn\[streaming\]'"):
        PromptDataset(ADDRESS)
    assert not list(own_store.rglob("*.jsonl"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder that stands for owner/name at all revisions."""
    import datasets

    folder = tmp_path / "hub"
    folder.mkdir()

    def on_disk(load, path, **options):
        assert path == "owner/name"
        return load(str(folder), **{**options, "revision": None})

    for name in ("load_dataset", "load_dataset_builder"):
        monkeypatch.setattr(datasets, name, partial(on_disk, getattr(datasets, name)))
    return folder


CAPTIONS = ["a dog", "A dog.", "", None, "two\nlines", " a naked cat "]


def write(folder: Path, ending: str) -> None:
    if ending == "parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"jpg": [b"x" * 100] * len(CAPTIONS), "caption": CAPTIONS})
        pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=2)
    else:
        lines = [json.dumps({"n": number, "caption": caption}) for number, caption in enumerate(CAPTIONS)]
        (folder / "train.jsonl").write_text("\n".join(lines))


@pytest.mark.extras("datasets")
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_column_is_streamed_once(hub, own_store, ending):
    write(hub, ending)
    options = {"purpose": "train", "deduplicate": None}
    dataset = PromptDataset("hf://owner/name@0123/train/caption", filter_unsafe=True, **options)
    assert dataset.prompts == ["a dog", "two\nlines"]
    assert (dataset.n_repeated, dataset.n_unsafe) == (1, 1)
    (file,) = own_store.glob("hub/owner/name@0123/*.jsonl")
    for path in hub.iterdir():
        path.unlink()
    again = PromptDataset("hf://owner/name@0123/train/caption", **options)
    assert again.prompts == ["a dog", "two\nlines", "a naked cat"]
    assert file.name == "train-caption.jsonl"


@pytest.mark.extras("datasets")
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_what_cannot_be_read_is_one_message(hub, own_store, ending):
    write(hub, ending)
    for address, message in (
        ("hf://owner/name/train/prompt", "hf://owner/name/train/prompt cannot be read .*prompt"),
        ("hf://owner/name/test/caption", "hf://owner/name/test/caption cannot be read .*test"),
    ):
        with pytest.raises(DownloadError, match=message):
            PromptDataset(address)
    assert not list(own_store.rglob("*.jsonl"))
