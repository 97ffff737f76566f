import json
from pathlib import Path

import pytest
from PIL import Image

from hn.data.manifest import load_manifest
from hn.data.store import PromptStore
from hn.evaluation.folder.images import ImageFile
from hn.evaluation.folder.layouts import read_benchmark_images, read_image_folder, require_even, with_rows


@pytest.fixture
def write(tmp_path):
    """Writes small images at these places below a folder, which it gives."""

    def images(*names):
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
        return tmp_path / "images"

    return images


def facts(files, folder):
    return [(file.path.relative_to(folder).as_posix(), file.prompt, dict(file.row)) for file in files]


def test_t2i_compbench_names_images_after_prompts(write):
    folder = write("samples/a red car_000001.png", "samples/a red car_000000.png", "samples/a cat._000002.png")
    expected = [
        ("a cat._000002.png", "a cat.", {"prompt": "a cat."}),
        ("a red car_000000.png", "a red car", {"prompt": "a red car"}),
        ("a red car_000001.png", "a red car", {"prompt": "a red car"}),
    ]
    for place in (folder, folder / "samples"):
        assert facts(read_benchmark_images(place), folder / "samples") == expected
    write("samples/unnamed.png")
    with pytest.raises(ValueError, match="Nothing says what .*unnamed.png is of: it is not named like 'a red car_000"):
        read_benchmark_images(folder)


def test_geneval2_maps_prompts_to_paths(write, tmp_path, monkeypatch):
    folder = write("0.png", "deep/1.png")
    mapping = folder / "paths.json"
    mapping.write_text(json.dumps({"a cat": "0.png", "a dog": str(folder / "deep" / "1.png")}))
    assert facts(read_benchmark_images(mapping), folder) == [
        ("0.png", "a cat", {"prompt": "a cat"}), ("deep/1.png", "a dog", {"prompt": "a dog"}),
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)  # paths that are relative to the working directory
    mapping.write_text(json.dumps({"a cat": "images/0.png"}))
    assert [file.path.name for file in read_benchmark_images(mapping)] == ["0.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "paths.json, line 1: not JSON"),
        ("[]", "paths.json holds a JSON array, not an object"),
        ("{}", "is to be an object of prompts and paths of images, like"),
        ('{"a cat": "../secret/0.png"}', r"paths.json names the image '../secret/0.png', which is not a path within"),
        ('{"a cat": "/etc/0.png"}', "paths.json names the image '/etc/0.png', which is not a path within"),
        ('{"a cat": "deep/../../0.png"}', "names the image 'deep/../../0.png', which is not a path within"),
        ('{"a cat": 3}', "is to be an object of prompts"),
    ],
)
def test_files_of_paths_that_are_not_right(tmp_path, content, message):
    (tmp_path / "paths.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_benchmark_images(tmp_path / "paths.json")


def test_images_that_are_not_there(tmp_path):
    (tmp_path / "paths.json").write_text('{"a cat": "0.png", "a dog": "1.png"}')
    with pytest.raises(FileNotFoundError, match="names 2 images that are not there: 0.png, 1.png"):
        read_benchmark_images(tmp_path / "paths.json")
    with pytest.raises(FileNotFoundError, match="There is no file no.json"):
        read_benchmark_images("no.json")
    with pytest.raises(FileNotFoundError, match="There is no folder nowhere"):
        read_benchmark_images("nowhere")


def test_what_hn_predict_wrote_has_its_rows(write):
    folder = write("00000/samples/0000.png")
    row = {"prompt": "a cat", "vqa_list": [["Is there a cat?", "Yes"]]}
    (folder / "00000" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert facts(read_benchmark_images(folder), folder) == [("00000/samples/0000.png", "a cat", row)]


def test_rows_by_prompt(write, tmp_path):
    files = read_benchmark_images(write("A cat._000000.png", "a dog_000001.png", "a dog_000002.png"))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a cat", "x": 1}\n{"prompt": "a  dog", "x": 2}\n{"prompt": "a cow"}\n')
    found, n_missing = with_rows(files, str(prompts))
    assert n_missing == 1 and [file.metadata["x"] for file in found] == [1, 2, 2]
    assert {file.metadata["set"] for file in found} == {str(prompts)}
    prompts.write_text('{"prompt": "a dog"}\n')
    found, n_missing = with_rows(files, [str(prompts)])
    assert n_missing == 0 and [file.path.name for file in found] == ["a dog_000001.png", "a dog_000002.png"]
    prompts.write_text('{"prompt": "a cow"}\n')
    with pytest.raises(
        ValueError, match="None of the images is of a prompt of .*prompts.jsonl; the first one is of 'A cat.'"
    ):
        with_rows(files, str(prompts))


def test_named_sets(write, tmp_path, monkeypatch):
    files = read_benchmark_images(write("a red circle_000000.png"))
    store = PromptStore(tmp_path / "store")
    (file,) = load_manifest().find("t2i_compbench/color/val")
    monkeypatch.setattr(PromptStore, "fetch", lambda self, wanted: wanted == file and tmp_path / "color.txt")
    (tmp_path / "color.txt").write_text("a red circle\n")
    found, _ = with_rows(files, "t2i_compbench/color", store)
    assert found[0].metadata == {"set": "t2i_compbench/color/val", "prompt": "a red circle"}


def test_prompts_weigh_the_same():
    files = [ImageFile(Path("0.png"), prompt) for prompt in ("a", "a", "b", "b", "c")]
    require_even(files[:4])
    with pytest.raises(ValueError, match="Most prompts have 2 images, 1 have another number: 'c' in .* .1.. Make"):
        require_even(files)


ENTRY = {"file": "0.png", "prompt": "a dog", "method": "base"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "../secret/s.png"}, "names the image '../secret/s.png', which is not a path within"),
        ({"file": "a/../../s.png"}, "names the image 'a/../../s.png', which is not a path within"),
        ({"file": ""}, "names the image '', which is not a path within"),
        ({"file": "0.png\0"}, r"names the image '0.png\\x00', which is not a path within"),
        ({"file": 3}, r"images\[1\]: 'file' has to be a string, but is 3"),
        ({"prompt": None}, r"images\[1\]: 'prompt' has to be a string, but is None"),
        ({"prompt": " "}, "the prompt of 0.png is empty"),
        ({"method": {}}, r"images\[1\]: 'method' has to be a string or null, but is \{\}"),
        ({"method": ["a"]}, r"images\[1\]: 'method' has to be a string or null"),
    ],
)
def test_each_wrong_entry_of_metadata_is_named(tmp_path: Path, entry: dict, message: str) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    (tmp_path / "metadata.json").write_text(json.dumps({"images": [ENTRY, {**ENTRY, **entry}]}))
    with pytest.raises(ValueError, match=f"metadata.json.*{message}"):
        read_image_folder(tmp_path)


def test_metadata_do_not_name_images_by_absolute_paths(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    for file in (tmp_path / "0.png", Path("/etc/passwd")):
        (tmp_path / "metadata.json").write_text(json.dumps({"images": [{**ENTRY, "file": str(file)}]}))
        with pytest.raises(ValueError, match=f"names the image '{file}', which is not a path within"):
            read_image_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3}', '{"images": [3]}', '{"images": {}}'])
def test_damaged_metadata_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata.json.* Without the file, the folder's images are read"):
        read_image_folder(tmp_path)


def test_metadata_name_images_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "deep" / "1.png")
    (tmp_path / "metadata.json").write_text(json.dumps({"images": [{"file": "deep/1.png", "prompt": "a dog"}]}))
    assert read_image_folder(tmp_path) == [ImageFile(tmp_path / "deep" / "1.png", "a dog")]
