from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import Request

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError

from hn.utils.dtype import parse_dtype
from hn.utils.hub import (
    Repository,
    _hub_is_reachable,
    explain_missing,
    is_cached,
    locate,
    locate_file,
    locate_folder,
    repositories_in,
    require_repositories,
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty cache, whose path is returned."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_dtypes_by_name() -> None:
    assert parse_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match=r"Unknown dtype 'bf16'; choose one of float64, float32, bfloat16, float16"):
        parse_dtype("bf16")


def test_finds_a_folder_with_its_marker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path), "config.json") == str(tmp_path)
    assert locate_folder(str(tmp_path), "config.json") == tmp_path


def test_a_folder_without_the_marker_is_described(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"has no model_index.json; it holds notes.txt. Point to the folder"):
        locate(str(tmp_path), "model_index.json")


def test_a_folder_around_the_right_one_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"Did you mean {tmp_path / 'pipeline'}"):
        locate(str(tmp_path), "model_index.json")


def test_a_missing_path_is_not_taken_for_a_repository(offline: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no folder checkpoints/mine/step-10\. It was looked for in .* Check the path"
    ):
        locate("checkpoints/mine/step-10", "model_index.json")


@pytest.mark.parametrize("name", ["data/miniature/pipeline", "data/miniature"])
def test_the_missing_miniature_is_built_by_make(name: str, offline: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"There is no folder {name}.*run `make miniature`"):
        locate(name, "model_index.json")


def test_another_path_with_miniature_in_it_is_not_to_be_built(offline: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("miniature", "my/miniature/pipeline", str(tmp_path / "data" / "miniature")):
        with pytest.raises(FileNotFoundError) as caught:
            locate(name, "model_index.json")
        assert f"There is no folder {name}." in str(caught.value) and "make miniature" not in str(caught.value)
        assert Path(name).is_absolute() or f"looked for in {tmp_path}" in str(caught.value)


def test_a_misspelt_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "miniature" / "pipeline").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"no folder .*pipelin. Did you mean {tmp_path / 'miniature/pipeline'}"):
        locate(str(tmp_path / "miniature" / "pipelin"), "model_index.json")


def test_a_folder_of_another_kind_beside_the_right_one_is_recognised(tmp_path: Path) -> None:
    for name, file in (("hypernet", "hypernet_config.json"), ("pipeline", "model_index.json")):
        (tmp_path / "miniature" / name).mkdir(parents=True)
        (tmp_path / "miniature" / name / file).write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"Did you mean {tmp_path / 'miniature/hypernet'}"):
        locate(str(tmp_path / "miniature" / "pipeline"), "hypernet_config.json")


@pytest.mark.parametrize("find", [locate, locate_file, locate_folder])
def test_an_empty_name_is_refused(find) -> None:
    with pytest.raises(FileNotFoundError, match="An empty name is no place to load from"):
        find("", "model_index.json")


def test_an_incomplete_miniature_is_built_by_make(tmp_path: Path) -> None:
    folder = tmp_path / "miniature" / "pipeline"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"it holds nothing.*run `make miniature`"):
        locate(str(folder), "model_index.json")


def test_a_missing_repository_names_the_command_cache_and_licence(offline: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        locate("stabilityai/sd-turbo", "model_index.json")
    message = str(caught.value)
    assert "not in the local cache and the Hub cannot be reached" in message
    assert "run:  hf download stabilityai/sd-turbo\n" in message
    assert f"cache in use is {offline}; set HF_HOME" in message
    assert "accept its licence at https://huggingface.co/stabilityai/sd-turbo and run `hf auth login`" in message


def test_the_command_has_revision_and_variant(offline: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        locate("owner/name", "model_index.json", revision="v2", variant="fp16")
    assert "hf download owner/name --revision v2 --include" in str(caught.value)
    assert '--include "*.fp16*"' in str(caught.value)


def test_a_cached_repository_is_found_offline(offline: Path) -> None:
    repository = offline / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert locate("owner/name", "config.json") == str(snapshot)
    assert locate_folder("owner/name", "config.json") == snapshot


def test_no_network_is_noticed_without_retries(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    requests: list[str] = []

    def no_network(request: Request, timeout: float) -> None:
        requests.append(request.full_url)
        raise URLError("Name or service not known")

    monkeypatch.setattr("hn.utils.hub.urlopen", no_network)
    with pytest.raises(FileNotFoundError, match="the Hub cannot be reached"):
        locate("owner/name", "config.json")
    assert requests == [constants.ENDPOINT]


def test_a_repository_that_the_hub_refuses_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise GatedRepoError("Access restricted", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("hn.utils.hub._hub_is_reachable", lambda: True)
    monkeypatch.setattr("hn.utils.hub.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"the Hub refused it \(GatedRepoError\)"):
        locate("owner/name", "config.json")


def test_of_several_markers_one_has_to_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(pretrained: str, name: str, revision: str | None) -> None:
        asked.append(name)
        if name != "b.bin":
            raise FileNotFoundError(name)

    monkeypatch.setattr("hn.utils.hub._hub_is_reachable", lambda: True)
    monkeypatch.setattr("hn.utils.hub.hf_hub_download", download)
    assert locate("owner/name", ("a.safetensors", "b.bin", "c.bin")) == "owner/name"
    assert asked == ["a.safetensors", "b.bin"]
    with pytest.raises(FileNotFoundError, match=r"has no a.safetensors or b.bin; it holds nothing"):
        locate(str(tmp_path), ("a.safetensors", "b.bin"))
    (tmp_path / "b.bin").touch()
    assert locate(str(tmp_path), ("a.safetensors", "b.bin")) == str(tmp_path)


def test_an_interrupted_download_is_explained(offline: Path) -> None:
    with (
        pytest.raises(
            FileNotFoundError, match=r"some of its files are not in the local cache\.\nOn .*hf download owner/name"
        ),
        explain_missing("owner/name"),
    ):
        raise OSError("no file named model.safetensors")


def test_the_librarys_own_message_stays_for_folders(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file named model.safetensors"), explain_missing(str(tmp_path)):
        raise OSError("no file named model.safetensors")


def test_one_file_of_a_folder_or_the_cache(offline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no a.pt or b.safetensors; it holds nothing. Put a.pt or b"):
        locate_file(str(folder), ["a.pt", "b.safetensors"])
    (folder / "b.safetensors").touch()
    assert locate_file(str(folder), ["a.pt", "b.safetensors"]) == folder / "b.safetensors"
    snapshot = offline / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "b.safetensors").touch()
    assert locate_file("owner/name", ["a.pt", "b.safetensors"]) == snapshot / "b.safetensors"


def test_a_missing_file_of_a_repository_names_the_command(offline: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        locate_file("owner/name", ["a.pt", "b.safetensors"], revision="v2")
    assert "it is not in the local cache and the Hub cannot be reached" in str(caught.value)
    assert "run:  hf download owner/name a.pt --revision v2\n" in str(caught.value)
    with pytest.raises(
        FileNotFoundError, match=r"no folder checkpoints/mine/step-10\. It was looked for in .* Check the path"
    ):
        locate_file("checkpoints/mine/step-10", "a.pt")


def test_one_file_is_downloaded_and_a_refusal_explained(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(pretrained: str, name: str, revision: str | None) -> str:
        asked.append(name)
        if name == "b.pt":
            return f"/cache/{name}"
        raise GatedRepoError("Access restricted", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("hn.utils.hub._hub_is_reachable", lambda: True)
    monkeypatch.setattr("hn.utils.hub.hf_hub_download", download)
    assert locate_file("owner/name", ["a.pt", "b.pt", "c.pt"]) == Path("/cache/b.pt")
    assert asked == ["a.pt", "b.pt"]
    with pytest.raises(FileNotFoundError, match=r"the Hub refused it \(GatedRepoError\).*\n.*download owner/name a.pt"):
        locate_file("owner/name", "a.pt")


@pytest.mark.parametrize(
    ("repository", "command"),
    [
        (Repository("o/n"), "hf download o/n"),
        (Repository("o/n", revision="v2"), "hf download o/n --revision v2"),
        (Repository("o/n", files="a/b.safetensors", revision="v2"), "hf download o/n a/b.safetensors --revision v2"),
        (Repository("o/n", files="unet/*", variant="fp16"), 'hf download o/n --include "unet/*"'),
    ],
)
def test_the_command_is_for_what_is_wanted(repository: Repository, command: str) -> None:
    assert repository.command == command


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GatedRepoError, "it is gated, and you are not logged in or have no access yet"),
        (RevisionNotFoundError, "it has no such revision"),
        (RemoteEntryNotFoundError, "it has no such file, so it is something else than is wanted here"),
    ],
)
def test_a_refusal_is_told_in_words(monkeypatch: pytest.MonkeyPatch, error: type[Exception], reason: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("hn.utils.hub._hub_is_reachable", lambda: True)
    monkeypatch.setattr("hn.utils.hub.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=f"the Hub refused it .{error.__name__}.: {reason}"):
        locate("owner/name", "config.json")


def test_a_cached_repository_of_another_kind_or_revision_is_not_it(offline: Path) -> None:
    repository = offline / "models--owner--name"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "a.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"some of its files are not in the local cache(.|\n)*no config.json"):
        locate("owner/name", "config.json")
    with pytest.raises(FileNotFoundError, match=r"not in the local cache and the Hub cannot be reached"):
        locate("owner/name", "config.json", revision="v2")
    assert is_cached(Repository("owner/name")) and is_cached(Repository("owner/name", revision="abc"))
    assert is_cached(Repository("owner/name", files="a.bin")) and is_cached(Repository("owner/name", files="a/*"))
    assert not is_cached(Repository("owner/name", files="b.bin")) and not is_cached(Repository("owner/name", "v2"))
    assert not is_cached(Repository("owner/other"))


def test_repositories_of_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local" / "folder").mkdir(parents=True)
    unet = {"pretrained": "o/unet", "file": "x.safetensors", "subfolder": "s"}
    content = {
        "generator": {
            "init_args": {"pretrained": "o/g", "revision": "v2", "variant": "fp16", "components": {"unet": unet}}
        },
        "rewards": [{"pretrained": "o/r", "tokenizer": "o/t"}, {"pretrained": "local/folder", "tokenizer": None}],
        "verifier": {"pretrained": "o/v", "processor": "o/p"},
        "others": {"pretrained": "data/miniature/pipeline", "tokenizer": {"pretrained": None}, "subfolder": "o/z"},
        "a": {"pretrained": "o/g2", "subfolder": "unet"},
    }
    assert list(repositories_in(content)) == [
        Repository("o/g", "v2", "fp16"),
        Repository("o/unet", files="s/x.safetensors"),
        Repository("o/r"),
        Repository("o/t", files=("*.json", "*.txt")),
        Repository("o/v"),
        Repository("o/p", files=("*.json", "*.txt")),
        Repository("o/g2", files="unet/*"),
    ]


def test_what_is_wanted_in_whole_is_not_asked_for_in_part(offline: Path) -> None:
    tokenizer = {"tokenizer": "o/model"}
    with pytest.raises(FileNotFoundError, match=r'hf download o/model --include "\*.json" --include "\*.txt"\n'):
        require_repositories(repositories_in(tokenizer))
    with pytest.raises(FileNotFoundError, match=r"run:  hf download o/model\n") as caught:
        require_repositories(repositories_in([tokenizer, {"pretrained": "o/model"}]))
    assert str(caught.value).count("hf download") == 1


def test_all_that_is_missing_is_said_at_once(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (offline / "models--o--there" / "snapshots" / "main").mkdir(parents=True)
    wanted = [Repository("o/there"), Repository("o/a", "v1"), Repository("o/b", files="x.pt"), Repository("o/a", "v1")]
    with pytest.raises(FileNotFoundError) as caught:
        require_repositories(wanted)
    message = str(caught.value)
    assert message.startswith(
        "Cannot load 'o/a', 'o/b': there are no such folders, and they are not in the local cache"
    )
    assert [line.split("hf ")[1] for line in message.splitlines() if "hf download" in line] == [
        "download o/a --revision v1",
        "download o/b x.pt",
    ]
    assert "https://huggingface.co/o/a and https://huggingface.co/o/b" in message and "HF_HOME" in message
    require_repositories(wanted[:1])
    monkeypatch.setattr("hn.utils.hub._hub_is_reachable", lambda: True)
    require_repositories(wanted)  # each is downloaded when its turn comes


def test_a_class_may_say_itself_what_its_arguments_ask_for() -> None:
    reward = {
        "class_path": "hn.rewards.hpsv2.HPSv2Reward",
        "init_args": {"pretrained": "o/h", "version": "v2.0", "architecture": "ViT-H-14"},
    }
    other = {"class_path": "no.such.Class", "init_args": {"pretrained": "o/x"}}
    found = list(repositories_in({"rewards": {"hps": reward}, "other": other}))
    assert found == [Repository("o/h", files="HPS_v2_compressed.pt"), Repository("o/x")]


def test_an_endpoint_that_is_no_address_is_named_and_counts_as_no_network(monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "hf-mirror.com")
    monkeypatch.setattr("hn.utils.hub.is_offline_mode", lambda: False)
    assert not _hub_is_reachable()
    assert "HF_ENDPOINT is 'hf-mirror.com'" in caplog.text
