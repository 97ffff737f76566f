"""f as one file that needs no hn: a program of torch.export, or an ONNX model."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hn.generators.base import Conditioning, Generator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.hypernets.base import Hypernet
from hn.hypernets.saving import describe_base
from hn.utils.files import atomic_folder

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_BATCH = 63
"""Largest batch of a program that takes any: from 64 on diffusers' UNets go another way."""
FACTS = "hypernet.json"
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}  # of f's largest value; in half precision the last one
HALF_TOLERANCE = 2e-2

Function = Callable[[Tensor, Conditioning], Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        batch_size: the only one that it takes; None if it takes 1 to `MAX_BATCH`.
        inputs: shapes of one sample's noise and conditioning, by name.
        difference: largest difference of the file's f from the hypernetwork's, on random inputs.
        largest: largest value of f there.
    """

    path: Path
    batch_size: int | None
    inputs: dict[str, tuple[int, ...]]
    difference: float
    largest: float


class Perturbation(nn.Module):
    """f alone, as a module: (noise [B, *noise_shape], conditioning) -> [B, *noise_shape]."""

    def __init__(self, hypernet: Hypernet):
        super().__init__()
        self.hypernet = hypernet

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return self.hypernet(noise, conditioning)


def require_exportable(generator: Generator, path: Path, format: str, batch_size: int | None) -> None:
    """Refuse what `export_hypernet` would; the generator may be on the meta device.

    Raises:
        FileExistsError: if `path` exists.
        FileNotFoundError: if its folder does not.
        ImportError: if packages for ONNX are missing.
        ValueError: if the format is unknown or does not fit `path`, the batch size is below 1, the family's backbone is
            called in a way that depends on values of the conditioning, or ONNX is asked for in half precision.
    """
    if format not in SUFFIXES:
        raise ValueError(f"Unknown format {format!r}; choose one of {', '.join(SUFFIXES)}.")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path}: the file's name must end in {SUFFIXES[format]} for the format {format}.")
    if path.exists():
        raise FileExistsError(f"{path} is there already and is not written over.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to; make it.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    if isinstance(generator, PipelineGenerator) and generator.family.reads_conditioning:
        raise ValueError(
            f"f on a {type(generator.pipe).__name__} cannot be exported: its backbone takes prompts cut to their "
            "lengths, so the program would depend on the prompts it was made with. Use it through hn."
        )
    if format == "onnx":
        missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f"ONNX needs {', '.join(missing)}: pip install 'hn[onnx]'. The format torch needs nothing."
            )
        if generator.dtype != torch.float32:
            raise ValueError(f"ONNX models are exported in float32, not {generator.dtype}: give dtype float32.")


@torch.no_grad()
def export_hypernet(hypernet: Hypernet, path: Path, format: str = "torch", batch_size: int | None = None) -> Exported:
    """Write f at the first timestep, as a function of noise and conditioning, and compare the file with f.

        f = torch.export.load("f.pt2").module()
        modulated = noise + f(noise, conditioning)          # what generator.encode gives, a dictionary of tensors

    The program computes in the data type and on the device that the generator has now, and holds the weights. In ONNX
    the conditioning's tensors are inputs of their own, `conditioning_<name>`.

    Args:
        hypernet: bound to its generator; a merged one gives a smaller and faster program.
        path: a file that does not exist, `.pt2` or `.onnx`; it is there in whole and compared, or not at all.
        format: "torch" or "onnx".
        batch_size: the only one that the program is to take; if not given it takes 1 to `MAX_BATCH`, or, where the
            backbone's code does not allow for that, 1.

    Raises:
        ValueError: if torch cannot export this backbone, or the file's f is another one, and as `require_exportable`.
        OSError, ImportError: as `require_exportable`.
    """
    generator = hypernet.generator
    require_exportable(generator, path, format, batch_size)
    function, example = Perturbation(hypernet).eval(), random_inputs(generator, batch_size or 2)
    hypernet(*example)  # what is computed once and kept is no part of the program
    program, batch_size = _export(function, generator, batch_size)
    facts = {**describe_base(generator), "inputs": {name: list(shape) for name, shape in _shapes(*example).items()}}
    with atomic_folder(path.parent, keep_others=True) as folder:  # large ONNX models have weights beside them
        partial = folder / path.name
        if format == "torch":
            torch.export.save(program, partial, extra_files={FACTS: json.dumps(facts)})
            written: Function = torch.export.load(partial).module()
        else:
            written = _write_onnx(program, partial, facts)
        difference, largest = _compare(written, hypernet, (1, 3) if batch_size is None else (batch_size,))
        tolerance = TOLERANCES.get(generator.dtype, HALF_TOLERANCE) * largest
        if not difference <= tolerance:  # NaN is refused too
            raise ValueError(
                f"The exported f differs from f by up to {difference:.3g}, more than rounding ({tolerance:.3g}; f is "
                f"at most {largest:.3g}), so {path} is not written: the format {format} does not do for "
                f"{type(generator.backbone).__name__}."
            )
    return Exported(path, batch_size, _shapes(*example), difference, largest)


def random_inputs(generator: Generator, batch_size: int, seed: int = 0) -> tuple[Tensor, Conditioning]:
    """Noise and conditioning of the shapes and data types that the generator's are of.

    Numbers are random, with the mean and spread of those of an empty prompt; masks and other integers are its own.
    """
    rng = torch.Generator().manual_seed(seed)
    noise = generator.sample_noise(batch_size, rng)
    conditioning = generator.encode([""] * batch_size)
    for name, tensor in conditioning.items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
            own = tensor.double()
            conditioning[name] = (own.mean() + own.std() * drawn.to(own.device)).to(tensor.dtype)
    return noise, conditioning


def _export(function: nn.Module, generator: Generator, batch_size: int | None) -> tuple[ExportedProgram, int | None]:
    """The program, and the only batch size that it takes; None if it takes any."""
    if batch_size is None:
        noise, conditioning = random_inputs(generator, 2)
        batch = {0: Dim("batch", min=1, max=MAX_BATCH)}
        shapes = (batch, dict.fromkeys(conditioning, batch))
        try:
            return torch.export.export(function, (noise, conditioning), dynamic_shapes=shapes, strict=False), None
        except RuntimeError:  # what torch.export has for code that needs to know the size
            batch_size = 1
    try:
        return torch.export.export(function, random_inputs(generator, batch_size), strict=False), batch_size
    except RuntimeError as error:
        raise ValueError(
            f"torch.export cannot trace {type(generator.backbone).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _write_onnx(program: ExportedProgram, path: Path, facts: dict) -> Function:
    """Write an ONNX model; f by ONNX Runtime, on the CPU."""
    import onnxruntime

    model = torch.onnx.export(program, dynamo=True, verbose=False)
    assert model is not None  # what the exporter without dynamo gives
    model.model.metadata_props["hn"] = json.dumps(facts)
    model.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(noise: Tensor, conditioning: Conditioning) -> Tensor:
        named = {"noise": noise, **{f"conditioning_{name}": tensor for name, tensor in conditioning.items()}}
        used = {each.name for each in session.get_inputs()}
        inputs = {name: tensor.cpu().numpy() for name, tensor in named.items() if name in used}
        return torch.from_numpy(session.run(None, inputs)[0]).to(noise.device)

    return run


def _compare(written: Function, hypernet: Hypernet, batch_sizes: tuple[int, ...]) -> tuple[float, float]:
    """Largest difference between two f, and the largest value of the second."""
    differences, values = [], []
    for batch_size in batch_sizes:
        inputs = random_inputs(hypernet.generator, batch_size, seed=batch_size)
        f = hypernet(*inputs)
        differences.append((written(*inputs) - f).abs().max())
        values.append(f.abs().max())
    return torch.stack(differences).max().item(), torch.stack(values).max().item()


def _shapes(noise: Tensor, conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape[1:]) for name, tensor in {"noise": noise, **conditioning}.items()}
