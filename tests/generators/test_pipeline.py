"""A pipeline loaded from its files; what it does then is tested in test_pipeline_generator.py."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from hn.generators import DiffusersGenerator, Generator, PipelineGenerator


def test_every_option_is_listed_with_its_help(capsys: pytest.CaptureFixture) -> None:
    parser = ArgumentParser()
    parser.add_argument("--generator", type=Generator)
    with pytest.raises(SystemExit):
        parser.parse_args(["--generator.help", "hn.generators.pipeline.DiffusersGenerator"])
    listed = capsys.readouterr().out
    options = {*inspect.signature(PipelineGenerator).parameters, *inspect.signature(DiffusersGenerator).parameters}
    options -= {"pipe", "options"}
    described = re.findall(r"^  --generator\.(\w+) [^\n]*\n +[^\s(-]", listed, re.MULTILINE)
    described += re.findall(r"^  --generator\.(\w+), [^\n]*\n +[^\s(-]", listed, re.MULTILINE)  # lists
    assert len(options) == 23 and {*described} == options


def test_gradient_checkpointing_is_of_the_networks_that_were_loaded(tiny_pipeline_folder: Path) -> None:
    generator = DiffusersGenerator(str(tiny_pipeline_folder), gradient_checkpointing=True)
    assert generator.backbone.is_gradient_checkpointing and generator.pipe.vae.decoder.gradient_checkpointing
    assert not generator.is_meta and not any(p.requires_grad for p in generator.parameters())


def test_the_scheduler_is_the_one_asked_for(tiny_pipeline_folder: Path) -> None:
    options = {"scheduler": "diffusers.LCMScheduler", "scheduler_options": {"original_inference_steps": 20}}
    generator = DiffusersGenerator(str(tiny_pipeline_folder), revision="v1", **options)
    assert type(generator.pipe.scheduler).__name__ == "LCMScheduler"
    assert generator.pipe.scheduler.config.original_inference_steps == 20
    assert (generator.name, generator.revision) == (str(tiny_pipeline_folder), "v1")


def test_without_weights_it_is_on_the_meta_device(tiny_pipeline_folder: Path) -> None:
    generator = DiffusersGenerator(str(tiny_pipeline_folder), load_weights=False)
    assert generator.is_meta and generator.pipe.text_encoder is None
    generator.check_prompts(["a word that nobody knows"])


@pytest.mark.exact
def test_from_a_pipeline_in_memory(stock_pipeline, tiny_pipeline_folder: Path) -> None:
    loaded, wrapped = DiffusersGenerator(str(tiny_pipeline_folder)), DiffusersGenerator.from_pipeline(stock_pipeline)
    assert type(wrapped) is PipelineGenerator
    noise, prompts = loaded.sample_noise(1), ["a cube"]
    images = [each.generate(noise, each.encode(prompts)) for each in (loaded, wrapped)]
    assert torch.equal(*images)


def test_missing_weights_are_reported_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no model_index.json"):
        DiffusersGenerator(str(tmp_path))
