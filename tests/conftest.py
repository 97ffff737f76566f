"""Tiny random models of the real classes, written to disk once per session, and paths to parity fixtures."""

import io
import json
import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch.callbacks import Checkpoint
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hn.cli import main
from hn.data import PromptDataModule
from hn.evaluation.detectors.miniature import GridDetector
from hn.evaluation.geneval import COLORS
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet, Trainable
from hn.rewards import ClipReward, RednessReward, RewardEnsemble
from hn.training.module import NoiseHypernetModule
from hn.training.trainer import ExperimentTrainer
from hn.utils.layers import compile_layers
from tests import tiny_rewards
from tests.counting_backend import CountingBackend

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

WORDS = ("a", "above", "and", "ball", "blue", "cube", "green", "left", "of", "photo", "red", "the", "two", ",", ".")
WINDOW = 12  # tokens, with start and end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that fork a training come first: PyTorch refuses to fork autograd once it has threads, which
    planning an update gives it. Then files with many tests: a long file that is begun last keeps one worker waiting."""
    forking = {item.path for item in items if item.get_closest_marker("forks")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in forking, -tests[item.path]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    packages = {package for mark in item.iter_markers("extras") for package in mark.args}
    if missing := sorted(package for package in packages if find_spec(package) is None):
        pytest.skip(f"needs optional packages: {', '.join(missing)}")


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """HN_TEST_THREADS, 1 if not set; the same in processes that tests start, for it decides how sums are split."""
    threads = os.environ.get("HN_TEST_THREADS", "1")
    torch.set_num_threads(int(threads))
    os.environ["OMP_NUM_THREADS"] = threads


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_process_of_many() -> Iterator[None]:
    """Takes back what Lightning says to the processes that it starts, and leaves in its own: with it, a command of a
    later test would start none, and wait for them."""
    yield
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Parity fixtures kept in this repository."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Parity fixtures too large for this repository, beside a checkout of it."""
    folder = Path(__file__).parents[2] / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"the larger parity fixtures are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> CLIPTokenizer:
    """Each of WORDS is one token, built from its letters from left to right; letters are tokens as well."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        for piece in pieces:
            vocabulary.setdefault(piece, len(vocabulary))
        joined = pieces[0]
        for piece in pieces[1:]:
            merges[joined, piece] = None
            joined += piece
            vocabulary.setdefault(joined, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=WINDOW)


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: CLIPTokenizer) -> Path:
    """A StableDiffusionPipeline like the miniature's: 32 x 32 images, 8 x 8 x 8 latents, DDIM, zero terminal SNR."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 8),
            latent_channels=8,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=0.7,
        )
        # Random decoders paint grey; a livelier last layer makes colours, and some pixels that are clamped.
        vae.decoder.conv_out.weight.data.mul_(4)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=12,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=WINDOW,
                **_special_tokens(tiny_tokenizer),
            )
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIPModel of 32 x 32 images with its tokenizer and a preprocessor of its own mean and std."""
    folder = tmp_path_factory.mktemp("clip")
    tiny_rewards.clip(folder)
    return folder


@pytest.fixture(scope="session")
def make_generator(tiny_pipeline_folder: Path) -> Callable[..., DiffusersGenerator]:
    """Loads the tiny pipeline, with the options given."""
    return lambda **options: DiffusersGenerator(str(tiny_pipeline_folder), **options)


@pytest.fixture(scope="session")
def shared_generator(make_generator: Callable[..., DiffusersGenerator]) -> DiffusersGenerator:
    """The tiny generator in float32, for fixtures that live longer than a test."""
    return make_generator()


@pytest.fixture
def generator(shared_generator: DiffusersGenerator) -> Iterator[DiffusersGenerator]:
    """The tiny generator in float32, shared: tests leave it as it is."""
    yield shared_generator
    left = shared_generator.encode([""]).keys()
    assert left == {"prompt_embeds"}, "Build hypernetworks that read tokens on a generator of make_generator()."


@pytest.fixture(scope="session")
def stock_pipeline(tiny_pipeline_folder: Path) -> StableDiffusionPipeline:
    """The tiny pipeline as a user of diffusers loads it."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def tiny_checkpoints(
    tiny_pipeline_folder: Path, tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All checkpoints of an experiment on the miniature, tiny: pipeline, clip, clip_held_out, detector."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(tiny_pipeline_folder, folder / "pipeline")
    shutil.copytree(tiny_clip_folder, folder / "clip")
    shutil.copytree(tiny_clip_folder, folder / "clip_held_out")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = CLIPModel(CLIPModel.from_pretrained(tiny_clip_folder).config)  # held out: other weights
        model.save_pretrained(folder / "clip_held_out")
        GridDetector(("ball", "cube"), COLORS, width=8).save_pretrained(folder / "detector")
    return folder


@pytest.fixture(scope="session")
def make_module(tiny_checkpoints: Path) -> Callable[..., NoiseHypernetModule]:
    """A module on the tiny checkpoints, rewarded by CLIP (red is watched), with the module's options given.

    Modules of the same data type and steps share their generator: tests leave it as it is.
    """

    @cache
    def generator_of(dtype: str, steps: int) -> DiffusersGenerator:
        options = {"strict_vocabulary": True, "encode_batch_size": 1}
        return DiffusersGenerator(str(tiny_checkpoints / "pipeline"), steps=steps, dtype=dtype, **options)

    def make(
        hypernet: Trainable | None = None, dtype: str = "float32", steps: int = 1, **options
    ) -> NoiseHypernetModule:
        generator, settings = generator_of(dtype, steps), {"dtype": dtype, "encode_batch_size": 1}
        clip, held_out = (
            ClipReward(str(tiny_checkpoints / name), scale="cosine", **settings) for name in ("clip", "clip_held_out")
        )
        rewards = {"clip": clip, "redness": RednessReward()}
        reward = RewardEnsemble(rewards, {"clip": 1.0, "redness": 0.0}, {"clip_held_out": held_out})
        return NoiseHypernetModule(generator, hypernet or LoraHypernet(rank=2), reward, **options)

    return make


@pytest.fixture(scope="session")
def tiny_detector(tiny_checkpoints: Path) -> GridDetector:
    """The tiny, random detector."""
    return GridDetector.from_pretrained(tiny_checkpoints / "detector")


@pytest.fixture
def make_data(tiny_prompts: Path) -> Callable[..., PromptDataModule]:
    """The tiny prompts in batches of 4 (three an epoch), with the options given."""
    files = {name: str(tiny_prompts / f"{name}.jsonl") for name in ("train", "val", "test")}
    return lambda **options: PromptDataModule(**{**files, "predict": files["test"], "batch_size": 4, **options})


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., ExperimentTrainer]:
    """A quiet trainer of two updates whose run directory is `tmp_path`, with the options given."""
    defaults = {
        "accelerator": "cpu",
        "default_root_dir": str(tmp_path),
        "max_epochs": -1,
        "max_steps": 2,
        "check_val_every_n_epoch": None,
        "val_check_interval": 2,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }

    def make(**options) -> ExperimentTrainer:
        checkpoints = any(isinstance(callback, Checkpoint) for callback in options.get("callbacks", ()))
        return ExperimentTrainer(**{**defaults, "enable_checkpointing": checkpoints, **options})

    return make


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl (14 prompts), val.jsonl and test.jsonl (5 each), with GenEval's metadata, in the tiny vocabulary."""
    folder = tmp_path_factory.mktemp("prompts")
    colors, shapes = ("blue", "green", "red"), ("ball", "cube")
    train = [f"{start} {color} {shape}" for start in ("a", "the") for color in colors for shape in shapes]
    rows = {
        "train": [{"prompt": prompt} for prompt in [*train, "a ball left of a cube", "a cube above a ball"]],
        "val": [_row("colors", f"a photo of a {c} {s}", c, s) for c in ("red", "blue") for s in shapes]
        + [_row("counting", "two ball", None, "ball", count=2)],
        "test": [_row("colors", f"a photo of the {c} {s}", c, s) for c in ("red", "green") for s in shapes]
        + [_row("counting", "two cube", None, "cube", count=2)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def experiment(tiny_checkpoints: Path, tiny_prompts: Path, tmp_path: Path) -> Path:
    """`tiny.yaml`: experiments/miniature.yaml on the tiny checkpoints, with runs of seconds in `tmp_path/runs`."""
    return _write_experiment(tmp_path, tiny_checkpoints, tiny_prompts)


@pytest.fixture(scope="session")
def finished_run(
    tiny_checkpoints: Path, tiny_prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The directory of a run of `hn train` on the tiny experiment, three images a prompt, and what the command printed.

    Trained once for all tests that look at it; tests leave it as it is.
    """
    experiment = _write_experiment(tmp_path_factory.mktemp("finished"), tiny_checkpoints, tiny_prompts)
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(["train", "--config", str(experiment), "--run.name", "one", "--model.images_per_prompt", "3"])
    return experiment.parent / "runs" / "tiny" / "one", printed.getvalue()


@pytest.fixture
def run_of_experiment(finished_run: tuple[Path, str], experiment: Path) -> Path:
    """A copy of the finished run, `one`, among the runs of `experiment`; for tests that do something with it."""
    folder = experiment.parent / "runs" / "tiny" / "one"
    shutil.copytree(finished_run[0], folder)
    return folder


def _write_experiment(folder: Path, checkpoints: Path, prompts: Path) -> Path:
    changes = {
        "extends": str(EXPERIMENTS / "miniature.yaml"),
        "vars": {"checkpoints": str(checkpoints), "prompts": str(prompts), "rank": 2},
        "model": {"images_per_prompt": 2, "warmup_steps": 2},
        "data": {"init_args": {"batch_size": 4, "eval_batch_size": 4}},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1},
        "callbacks": {
            "images": {"init_args": {"prompts": ["a red ball", "two cube"]}},
            "evaluation": {"init_args": {"noise_diagnostics": None}},  # which takes its time
            "suite": None,
        },
        "comparison": {
            "finetune": None,
            "steps": None,
            "searches": {
                "best_of_8": {"init_args": {"n": 3}},
                "best_of_50": None,
                "zero_order_17": None,
                "reno_50": {"init_args": {"iterations": 2, "report_at": []}},
                "hypernetwork_reno_5": None,
            },
        },
        "run": {"root": str(folder / "runs"), "pretrained": None},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(changes))
    return path


def _row(tag: str, prompt: str, color: str | None, shape: str, count: int = 1) -> dict:
    clause = {"class": shape, "count": count} | ({"color": color} if color else {})
    return {"tag": tag, "include": [clause], "exclude": [], "prompt": prompt}


def _special_tokens(tokenizer: CLIPTokenizer) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> CountingBackend:
    """Compiles generators and hypernetworks in the place of inductor."""
    torch.compiler.reset()
    backend = CountingBackend()
    users = ("evaluation.generate", "generators.pipeline_generator", "hypernets.lora", "hypernets.merged")
    for user in users:
        monkeypatch.setattr(f"hn.{user}.compile_layers", lambda layers: compile_layers(layers, backend))
    return backend


@pytest.fixture
def small_files_only() -> Callable[[], AbstractContextManager[None]]:
    """Makes a context in which no file can have more than 1 kB, as if the disk were full.

    A context, not the whole test: pytest's own output may go to a file.
    """

    @contextmanager
    def limited() -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs `hn` with arguments that are wrong: the one message, all that is shown if it is to be `silent` before."""

    def message(*arguments: object, silent: bool = True) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        assert caught.value.code == 2
        written = capsys.readouterr()
        assert written.err.count("error: ") == 1 and (written.out == "" or not silent)
        assert "Traceback" not in written.err and len(written.err.splitlines()) < 14
        return written.err

    return message
