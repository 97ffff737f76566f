"""Images without an experiment, end to end through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import hn
from hn.cli import main
from hn.cli.generate import has_config
from hn.cli.parsing import with_flag_values
from hn.evaluation.generate import ImageRequest, Trained, write_images
from hn.evaluation.methods import Sampled
from hn.hypernets import Hypernet, LoraFinetune, LoraHypernet, Trainable
from tests.tiny_pipelines import CASES

PROMPT = "a red ball"


@pytest.fixture
def hypernet(generator, tmp_path) -> Path:
    """A folder of a trained hypernetwork, as it were."""
    return save(LoraHypernet(rank=2), generator, tmp_path / "hypernet")


def save(model: Trainable, generator, folder: Path) -> Path:
    model.build(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def generate(tiny_pipeline_folder, tmp_path, monkeypatch):
    """Runs `hn generate` on the tiny pipeline; returns the folder that it wrote to."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, output: str = "out", prompt: str | None = PROMPT) -> Path:
        prompts = [] if prompt is None else ["--prompt", prompt]
        main(["generate", "--generator", str(tiny_pipeline_folder), *prompts, "--output", output, *map(str, options)])
        return tmp_path / output

    return run


@pytest.fixture
def refused(refuse, tiny_pipeline_folder, tmp_path, monkeypatch):
    """The one message with which a command is refused, before weights are loaded and without a folder made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))

    def message(*options: str, generator: str | None = str(tiny_pipeline_folder), prompt: str | None = PROMPT) -> str:
        words = [] if generator is None else ["--generator", generator]
        words += [] if prompt is None else ["--prompt", prompt]
        shown = refuse("generate", *words, *options)
        assert len(shown.splitlines()) < 9
        assert not (tmp_path / "runs").exists()
        return shown

    return message


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def metadata(folder: Path) -> dict:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def test_base_and_hypernetwork_side_by_side(generate, hypernet, tiny_pipeline_folder):
    folder = generate("--hypernet", hypernet, "--steps", "1", "--seed", "3", "--count", "2", "--compare")
    names = [f"{number:04d}_{method}.png" for method in ("base", "hypernetwork") for number in range(2)]
    assert {path.name for path in folder.iterdir()} == {*names, "overview.png", "metadata.json"}
    found = metadata(folder)
    assert found["environment"]["packages"]["hn"] == hn.__version__
    expected = {
        "generator": str(tiny_pipeline_folder), "revision": None, "dtype": "float32", "device": "cpu", "height": 32,
        "width": 32, "hypernet": str(hypernet), "hypernet_revision": None, "seed": 3, "steps": 1, "batch_size": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert [entry["file"] for entry in found["images"]] == names
    assert [entry["nfe"] for entry in found["images"]] == [1, 1, 2, 2]
    assert [entry["image"] for entry in found["images"]] == [0, 1, 0, 1]
    assert all(entry["seconds"] > 0 and entry["prompt"] == PROMPT for entry in found["images"])
    images = [pixels(folder / name) for name in names]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])
    assert Image.open(folder / "overview.png").height > 2 * 96


def test_a_png_alone_says_how_it_was_made(generate, hypernet, tiny_pipeline_folder):
    text = Image.open(generate("--hypernet", hypernet, "--seed", "3", "--count", "2") / "0001_hypernetwork.png").text
    assert text.pop("software") == f"hn {hn.__version__}"
    assert json.loads(text.pop("versions")).keys() >= {"hn", "torch", "diffusers"}
    assert text == {
        "prompt": PROMPT, "image": "1", "method": "hypernetwork", "nfe": "2", "seed": "3", "steps": "1",
        "generator": str(tiny_pipeline_folder), "hypernet": str(hypernet), "dtype": "float32", "device": "cpu",
        "height": "32", "width": "32", "batch_size": "1",
    }  # fmt: skip


def test_one_set_of_images_without_a_comparison_or_a_hypernetwork(generate, hypernet):
    base = generate("--count", "1")
    assert {path.name for path in base.iterdir()} == {"0000_base.png", "metadata.json"}
    alone = generate("--count", "1", "--hypernet", hypernet, output="alone")
    assert {path.name for path in alone.iterdir()} == {"0000_hypernetwork.png", "metadata.json"}
    both = generate("--count", "1", "--hypernet", hypernet, "--compare=true", output="both")
    assert np.array_equal(pixels(both / "0000_base.png"), pixels(base / "0000_base.png"))
    assert np.array_equal(pixels(both / "0000_hypernetwork.png"), pixels(alone / "0000_hypernetwork.png"))


@pytest.mark.slow
def test_a_merged_hypernetwork_makes_the_same_images(generate, hypernet):
    plain, merged = (generate("--hypernet", hypernet, *more, output=f"o{len(more)}") for more in ((), ("--merge",)))
    assert metadata(merged)["merged"] is True and "merged" not in metadata(plain)
    for number in range(4):
        images = [pixels(folder / f"{number:04d}_hypernetwork.png") for folder in (plain, merged)]
        assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.slow
def test_with_a_compiled_generator_the_pass_with_lora_is_compiled_too(
    hypernet, tiny_pipeline_folder, tmp_path, monkeypatch, backend
):
    monkeypatch.chdir(tmp_path)
    images = []
    for compile, runs in ((False, 0), (True, 3)):  # backbone with LoRA, backbone, decoder
        Path("x.yaml").write_text(yaml.safe_dump({"pretrained": str(tiny_pipeline_folder), "compile": compile}))
        options = ["--generator", "x.yaml", "--hypernet", str(hypernet), "--prompt", PROMPT, "--count", "1"]
        main(["generate", *options, "--output", f"compile_{compile}"])
        assert backend.runs == runs
        images.append(pixels(tmp_path / f"compile_{compile}" / "0000_hypernetwork.png"))
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize("compile", [False, True])
def test_what_was_trained_is_compiled_as_its_generator_is(hypernet, make_generator, tmp_path, backend, compile):
    generator = make_generator(compile=compile)
    tune = save(LoraFinetune(rank=2), generator, tmp_path / "tune")
    for trained in (Trained(str(hypernet)), Trained(str(hypernet), merge=True), Trained(str(tune))):
        backbone = trained.load(generator).backbone
        assert backbone is not generator.backbone
        assert (backbone._compiled_call_impl is not None) == compile


def test_there_must_be_something_to_merge(refused, generator, tmp_path):
    assert "--merge needs --hypernet" in refused("--merge")
    tune = save(LoraFinetune(rank=2), generator, tmp_path / "tune")
    assert "is no LoRA hypernetwork, so it cannot be merged" in refused("--merge", "--hypernet", tune)


@pytest.mark.slow
def test_an_image_depends_on_seed_and_number_alone(generate, hypernet):
    alone = generate("--hypernet", hypernet, "--count", "1", output="alone", prompt="two cube")
    company = generate("--hypernet", hypernet, "--count", "3", "--prompt", "a ball", "two cube", output="company")
    again = generate("--hypernet", hypernet, "--count", "1", output="again", prompt="two cube")
    other = generate("--hypernet", hypernet, "--count", "1", "--seed", "1", output="other", prompt="two cube")
    files = [f / n for f, n in ((alone, "0000"), (company, "0006"), (again, "0000"), (other, "0000"))]
    images = [Path(f"{file}_hypernetwork.png") for file in files]
    assert np.array_equal(pixels(images[0]), pixels(images[1]))
    assert images[0].read_bytes() == images[2].read_bytes()
    assert not np.array_equal(pixels(images[0]), pixels(images[3]))


@pytest.mark.slow
def test_the_images_are_those_of_the_experiments_form(generate, hypernet, experiment, tmp_path):
    options = ["--hypernet", str(hypernet), "--count", "2", "--seed", "5", "--steps", "2"]
    folder = generate(*options, "--compare")
    for extra, number in ((["--compare"], 1), (["--compare", "false"], 2), ([], 3)):
        main(["generate", "--config", str(experiment), "--run.name", "x", "--prompt", PROMPT, *options, *extra])
        written = tmp_path / "runs" / "tiny" / f"generate_x{'' if number == 1 else f'_{number}'}"
        with_base = "false" not in extra
        assert (written / "overview.png").exists() == (written / "0000_base.png").exists() == with_base
        for name in ("0000_hypernetwork", "0001_hypernetwork", *(["0001_base"] if with_base else [])):
            assert np.array_equal(pixels(written / f"{name}.png"), pixels(folder / f"{name}.png"))


def test_latents_for_a_stock_pipeline_are_of_the_same_noise(generate, hypernet, stock_pipeline, generator):
    folder = generate("--hypernet", hypernet, "--seed", "4", "--count", "2")
    trained = Hypernet.from_pretrained(hypernet, generator)
    latents = trained.latents(PROMPT, seed=4, images_per_prompt=2)
    images = stock_pipeline([PROMPT] * 2, latents=latents, num_inference_steps=1, guidance_scale=0.0).images
    for number, image in enumerate(images):
        difference = np.abs(np.asarray(image).astype(int) - pixels(folder / f"{number:04d}_hypernetwork.png"))
        assert difference.max() <= 1  # a batch of two, and another rounding


def test_a_fine_tune_in_the_hypernetworks_place(generate, generator, tmp_path):
    folder = generate(
        "--hypernet", save(LoraFinetune(rank=2), generator, tmp_path / "tuned"), "--compare", "--count", "1"
    )
    assert {path.name for path in folder.glob("0*")} == {"0000_base.png", "0000_finetune.png"}
    assert [entry["nfe"] for entry in metadata(folder)["images"]] == [1, 1]
    assert (pixels(folder / "0000_base.png") != pixels(folder / "0000_finetune.png")).any()


def test_a_published_adapter_with_the_rule_stated(generate, refused, hypernet, monkeypatch):
    (hypernet / "hypernet_config.json").unlink()
    assert "--last_layer_rule lora_branch_only of hn generate" in refused("--hypernet", hypernet)
    monkeypatch.undo()
    (hypernet / "adapter_config.json").unlink()
    folder = generate(
        "--hypernet", hypernet, "--last_layer_rule", "lora_branch_only", "--alpha", "4", "--count", "1",
        output=str(hypernet.parent / "made"),
    )  # fmt: skip
    assert (folder / "0000_hypernetwork.png").exists()


def test_prompts_from_a_file_and_several_on_the_command_line(generate, tmp_path):
    (tmp_path / "p.txt").write_text("a ball\n\ntwo cube\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cube", "tag": "x"}\n')
    cases = (["--prompts", "p.txt"], ["--prompts", "p.jsonl"], ["--prompt", "a", "true", "--prompt", "[a]: b"])
    for number, (options, expected) in enumerate(
        zip(cases, (["a ball", "two cube"], ["a cube"], ["a", "true", "[a]: b"]), strict=True)
    ):
        folder = generate("--count", "1", *options, output=f"out{number}", prompt=None)
        assert [entry["prompt"] for entry in metadata(folder)["images"]] == expected


def test_size_type_and_steps(generate):
    options = ["--height", "16", "--width", "40", "--dtype", "bfloat16", "--steps", "3", "--count", "1"]
    folder = generate(*options)
    assert Image.open(folder / "0000_base.png").size == (40, 16)
    found = metadata(folder)
    assert [found[name] for name in ("height", "width", "dtype", "steps")] == [16, 40, "bfloat16", 3]
    assert found["images"][0]["nfe"] == 3


def test_a_file_describes_the_generator(tiny_pipeline_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = {
        "class_path": "hn.generators.DiffusersGenerator",
        "init_args": {
            "pretrained": "${vars.folder}", "scheduler": "diffusers.LCMScheduler", "gradient_checkpointing": True,
            "components": {"unet": {"pretrained": str(tiny_pipeline_folder), "subfolder": "unet"}},
        },
    }  # fmt: skip
    section["init_args"]["strict_vocabulary"] = True
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"vars": {"folder": str(tiny_pipeline_folder)}}))
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "model": {"generator": section}}))
    bare = {"pretrained": str(tiny_pipeline_folder), "scheduler": "diffusers.LCMScheduler"}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(bare))
    files = []
    for name, size in (("x.yaml", 16), ("bare.yaml", 16)):
        main(["generate", "--generator", name, "--prompt", PROMPT, "--height", str(size), "--count", "1",
              "--output", f"of_{name}"])  # fmt: skip
        found = metadata(tmp_path / f"of_{name}")
        assert (found["generator"], found["height"]) == (str(tiny_pipeline_folder), 16)
        files.append(tmp_path / f"of_{name}" / "0000_base.png")
    assert np.array_equal(pixels(files[0]), pixels(files[1]))


def test_the_default_folder_is_new_each_time(tiny_pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hn.cli.generate.timestamp", lambda: "now")
    for _ in range(2):
        main(["generate", "--generator", str(tiny_pipeline_folder), "--prompt", PROMPT, "--count", "1"])
    assert sorted(path.name for path in (tmp_path / "runs" / "generate").iterdir()) == ["now", "now_2"]
    assert "images       runs/generate/now_2 (1 each of base)" in capsys.readouterr().out


def test_what_was_written_stays_when_it_is_interrupted(generate, monkeypatch, tmp_path, capsys):
    made = []

    def interrupt(self, samples, conditioning):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(samples)
        return run(self, samples, conditioning)

    run = Sampled.run
    monkeypatch.setattr(Sampled, "run", interrupt)
    with pytest.raises(SystemExit) as caught:
        generate("--count", "4")
    assert caught.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    files = [entry["file"] for entry in metadata(tmp_path / "out")["images"]]
    assert files == sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["0000_base.png", "0001_base.png"]
    assert Image.open(tmp_path / "out" / files[1]).text["prompt"] == PROMPT


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--prompt", " "], ["The prompt is empty"]),
        (["--count", "0"], ["count (0) must be at least 1"]),
        (["--steps", "0"], ["steps (0) must be at least 1"]),
        (["--steps", "1001"], ["steps must be at most 1000"]),
        (["--batch_size", "0"], ["batch_size (0)"]),
        (["--count", "two"], ["count", "two"]),
        (["--dtype", "bf16"], ["Unknown dtype 'bf16'; choose one of"]),
        (["--device", "cuda:99"], ["There is no device 'cuda:99' here; choose auto or one of cpu"]),
        (["--height", "30"], ["positive multiples of 8, not 30 x 32"]),
        (["--variant", "fp16"], ["incomplete", "fp16"]),
        (["--hypernet", "no/such/folder"], ["There is no folder no/such/folder"]),
        (["--prompts", "no.txt"], ["Give prompts, either with --prompt or in a file with --prompts"]),
        (["--compare"], ["--compare needs --hypernet"]),
        (["--alpha", "4"], ["--alpha needs --hypernet"]),
        (["--hypernt", "x"], ["--hypernt: did you mean --hypernet?", "hn generate --help"]),
        (["--trainer.max_steps", "4"], ["--trainer.max_steps", "hn generate --help"]),
    ],
)  # fmt: skip
def test_a_slip_gives_one_message_before_anything_heavy(refused, options, messages):
    message = refused(*options)
    for part in messages:
        assert part in message


def test_missing_words_are_named(refused, tmp_path, tiny_pipeline_folder):
    assert "Name a generator, or an experiment (--config)" in refused(generator=None)
    assert "Give prompts" in refused(prompt=None)
    assert "no.txt: there is no such prompt file" in refused("--prompts", "no.txt", prompt=None)
    assert "There is no folder no/such/folder" in refused(generator="no/such/folder")
    assert "There is no configuration file no.yaml" in refused(generator="no.yaml")
    (tmp_path / "x.yaml").write_text("trainer: {max_steps: 1}\n")
    assert "x.yaml describes no generator" in refused(generator="x.yaml")
    (tmp_path / "y.yaml").write_text("pretrained: ${vars.nothing}\n")
    assert "in y.yaml cannot be resolved" in refused(generator="y.yaml")
    (tmp_path / "z.yaml").write_text(f"pretrained: {tiny_pipeline_folder}\nstps: 3\n")
    assert "stps" in refused(generator="z.yaml")


def test_a_folder_that_holds_something_is_not_written_over(generate, refused, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0000_base.png").touch()
    assert "full exists already and is not overwritten" in refused("--output", "full")
    assert [path.stat().st_size for path in (tmp_path / "full").iterdir()] == [0]


def test_a_hypernetwork_of_another_backbone_is_refused_before_weights_are_loaded(refused, generator, tmp_path):
    other = tmp_path / "flux"
    hypernet = save(LoraHypernet(rank=2), generator, tmp_path / "net")
    CASES["flux"].build().save_pretrained(other)
    message = refused("--hypernet", hypernet, "--height", "32", "--width", "32", generator=str(other))
    assert "is for a UNet2DConditionModel, but the generator has a FluxTransformer2DModel" in message


def test_weights_to_download_are_named_with_the_command(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    message = refused("--revision", "v2", generator="owner/name")
    assert "run:  hf download owner/name --revision v2\n" in message
    assert "run:  hf download me/mine\n" in refused("--hypernet", "me/mine")
    both = refused("--hypernet", "me/mine", "--hypernet_revision", "v3", generator="owner/name")
    assert "run:  hf download owner/name\n" in both and "hf download me/mine --revision v3\n" in both


def test_an_image_that_overflows_is_said(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "decode", lambda latents: latents.new_full((1, 3, 32, 32), float("nan")))
    request = ImageRequest([PROMPT], count=1)
    with pytest.raises(ValueError, match="is not finite"):
        write_images([Sampled("base", generator)], request, tmp_path, {})
    assert metadata(tmp_path)["images"] == []


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hn generate --generator ID_OR_FOLDER")
    assert len(shown.splitlines()) < 90
    for option in ("--generator", "--hypernet", "--prompt ", "--prompts", "--compare", "--last_layer_rule", "--config"):
        assert option in shown


def test_words_of_the_command_line():
    assert with_flag_values([], ["--compare"]) == []
    assert with_flag_values(["--compare", "--a"], ["--compare"]) == ["--compare=true", "--a"]
    assert with_flag_values(["--compare", "false", "--compare"], ["--compare"]) == [
        "--compare",
        "false",
        "--compare=true",
    ]
    assert [has_config([word]) for word in ("-c", "--config=x", "--configs")] == [True, True, False]


def test_prompts_of_a_file_have_noise_of_their_own(generator):
    prompts = ["a red ball", "two cube"]
    shared, own = (ImageRequest(prompts, count=2, own_noise=each).batches(generator) for each in (False, True))
    shared, own = (torch.cat([samples.noise for samples in batches]) for batches in (shared, own))
    assert torch.equal(shared[:2], shared[2:]) and torch.equal(own[:2], shared[:2])
    assert len({noise.sum().item() for noise in own}) == 4


def test_prompts_that_are_no_unicode_are_refused():
    with pytest.raises(ValueError, match="The prompt .* is no valid UTF-8"):
        ImageRequest(["caf\udce9"])
