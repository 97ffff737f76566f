"""f as one file that needs no hn: a program of torch.export, or an ONNX model."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hn.generators.base import Conditioning
from hn.generators.pipeline_generator import PipelineGenerator
from hn.generators.random_inputs import random_inputs
from hn.hypernets.base import Hypernet
from hn.hypernets.saving import describe_base
from hn.utils.files import atomic_folder
from hn.utils.program import OnnxModel, export_program, require_onnx, write_onnx

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
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


def dtype_of(hypernet: Hypernet) -> torch.dtype:
    """The data type in which f is computed: the backbone's, or of a network of its own that of its weights."""
    return hypernet.generator.dtype if hypernet.extra_nfe else next(hypernet.parameters()).dtype


def require_exportable(hypernet: Hypernet, path: Path, format: str, batch_size: int | None) -> None:
    """Refuse what `export_hypernet` would; hypernetwork and generator may be on the meta device.

    Raises:
        FileExistsError: if `path` exists.
        FileNotFoundError: if its folder does not.
        ImportError: if packages for ONNX are missing.
        ValueError: if the format is unknown or does not fit `path`, the batch size is below 1, f is computed by a
            backbone that is called in a way that depends on values of the conditioning, or ONNX is asked for where f is
            computed in half precision.
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
    generator = hypernet.generator
    if hypernet.extra_nfe and isinstance(generator, PipelineGenerator) and generator.family.reads_conditioning:
        raise ValueError(
            f"f on a {type(generator.pipe).__name__} cannot be exported: its backbone takes prompts cut to their "
            "lengths, so the program would depend on the prompts it was made with. Use it through hn."
        )
    if format == "onnx":
        require_onnx()
        if dtype_of(hypernet) != torch.float32:
            raise ValueError(f"ONNX models are exported in float32, not {dtype_of(hypernet)}: give dtype float32.")


@torch.no_grad()
def export_hypernet(hypernet: Hypernet, path: Path, format: str = "torch", batch_size: int | None = None) -> Exported:
    """Write f at the first timestep, as a function of noise and conditioning, and compare the file with f.

        f = torch.export.load("f.pt2").module()
        modulated = noise + f(noise, conditioning)          # what generator.encode gives, a dictionary of tensors

    The program computes in the data type and on the device that the generator has now, and holds the weights: with LoRA
    the backbone's too, else the hypernetwork's alone. In ONNX the conditioning's tensors are inputs of their own,
    `conditioning_<name>`, and in float32.

    Args:
        hypernet: bound to its generator; a merged one gives a smaller and faster program.
        path: a file that does not exist, `.pt2` or `.onnx`; it is there in whole and compared, or not at all.
        format: "torch" or "onnx".
        batch_size: the only one that the program is to take; if not given it takes 1 to `MAX_BATCH`, or, where the
            backbone's code does not allow for that, 1.

    Raises:
        ValueError: if torch cannot export f, or the file's f is another one, and as `require_exportable`.
        OSError, ImportError: as `require_exportable`.
    """
    require_exportable(hypernet, path, format, batch_size)
    example = _inputs(hypernet, format, batch_size or 2)
    hypernet(*example)  # what is computed once and kept is no part of the program
    name = hypernet.generator.backbone_class if hypernet.extra_nfe else type(hypernet).__name__
    program, batch_size = export_program(
        Perturbation(hypernet).eval(), lambda n: _inputs(hypernet, format, n), batch_size, str(name)
    )
    shapes = _shapes(*example)
    facts = {**describe_base(hypernet.generator), "inputs": {name: list(shape) for name, shape in shapes.items()}}
    with atomic_folder(path.parent, keep_others=True) as folder:  # large ONNX models have weights beside them
        partial = folder / path.name
        if format == "torch":
            torch.export.save(program, partial, extra_files={FACTS: json.dumps(facts)})
            written: Function = torch.export.load(partial).module()
        else:
            written = _write_onnx(program, partial, facts)
        difference, largest = _compare(written, hypernet, format, (1, 3) if batch_size is None else (batch_size,))
        tolerance = TOLERANCES.get(dtype_of(hypernet), HALF_TOLERANCE) * largest
        if not difference <= tolerance:  # NaN is refused too
            raise ValueError(
                f"The exported f differs from f by up to {difference:.3g}, more than rounding ({tolerance:.3g}; f is "
                f"at most {largest:.3g}), so {path} is not written: the format {format} does not do for "
                f"{name}."
            )
    return Exported(path, batch_size, shapes, difference, largest)


def _inputs(hypernet: Hypernet, format: str, batch_size: int, seed: int = 0) -> tuple[Tensor, Conditioning]:
    """Random noise and conditioning; for ONNX in float32."""
    noise, conditioning = random_inputs(hypernet.generator, batch_size, seed)
    if format != "onnx":
        return noise, conditioning
    floats = {name: tensor.float() for name, tensor in conditioning.items() if tensor.is_floating_point()}
    return noise.float(), conditioning | floats


def _write_onnx(program: ExportedProgram, path: Path, facts: dict) -> Function:
    """Write an ONNX model; f by ONNX Runtime, on the CPU."""
    write_onnx(program, path, facts)
    model = OnnxModel(path)

    def run(noise: Tensor, conditioning: Conditioning) -> Tensor:
        named = {f"conditioning_{name}": tensor for name, tensor in conditioning.items()}
        return next(iter(model({"noise": noise, **named}).values()))

    return run


def _compare(written: Function, hypernet: Hypernet, format: str, batch_sizes: tuple[int, ...]) -> tuple[float, float]:
    """Largest difference between two f, and the largest value of the second."""
    differences, values = [], []
    for batch_size in batch_sizes:
        inputs = _inputs(hypernet, format, batch_size, seed=batch_size)
        f = hypernet(*inputs)
        differences.append((written(*inputs) - f).abs().max())
        values.append(f.abs().max())
    return torch.stack(differences).max().item(), torch.stack(values).max().item()


def _shapes(noise: Tensor, conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape[1:]) for name, tensor in {"noise": noise, **conditioning}.items()}
