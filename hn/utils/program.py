"""Networks as programs that need no hn: of torch.export, and ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MAX_BATCH = 63
"""Largest batch of a program that takes any: from 64 on diffusers' UNets go another way."""


def require_onnx(packages: Sequence[str] = ONNX_PACKAGES) -> None:
    """Raises:
    ImportError: if one of these packages is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'hn[onnx]'.")


def export_program(
    function: nn.Module, make_inputs: Callable[[int], tuple[Any, ...]], batch_size: int | None, name: str
) -> tuple[ExportedProgram, int | None]:
    """A function of tensors, batch first, as a program.

    Args:
        function: in eval mode; takes tensors, and dictionaries of tensors.
        make_inputs: gives its arguments for a batch of so many.
        batch_size: the only one that the program is to take; if not given it takes 1 to `MAX_BATCH`, or, where the code
            does not allow for that, 1.
        name: what is exported, for the error message.

    Returns:
        The program, and the only batch size that it takes; None if it takes any.

    Raises:
        ValueError: if torch cannot export it.
    """
    if batch_size is None:
        inputs, batch = make_inputs(2), {0: Dim("batch", min=1, max=MAX_BATCH)}
        shapes = tuple(dict.fromkeys(each, batch) if isinstance(each, dict) else batch for each in inputs)
        try:
            return torch.export.export(function, inputs, dynamic_shapes=shapes, strict=False), None
        except RuntimeError:  # what torch.export has for code that needs to know the size
            batch_size = 1
    try:
        return torch.export.export(function, make_inputs(batch_size), strict=False), batch_size
    except RuntimeError as error:
        raise ValueError(f"torch.export cannot trace {name}: {str(error).splitlines()[0]}") from error


def write_onnx(
    program: ExportedProgram,
    path: Path,
    facts: Mapping[str, Any],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> None:
    """Write an ONNX model; weights of more than 2 GB go into a file beside it.

    Args:
        program: what it computes.
        path: the file.
        facts: kept in the model as JSON, under "hn".
        inputs: names of the program's inputs, in their order; their own if not given.
        outputs: likewise.
    """
    model = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    assert model is not None  # what the exporter without dynamo gives
    model.model.metadata_props["hn"] = json.dumps(facts)
    model.save(path)


class OnnxModel:
    """An ONNX model in the hands of ONNX Runtime. Copies of it, and those in other processes, read the file again.

    Args:
        path: the file.
        providers: of ONNX Runtime, the preferred one first; the CPU if not given.

    Raises:
        ImportError: if ONNX Runtime is missing.
        ValueError: if the file cannot be read.
    """

    def __init__(self, path: str | Path, providers: Sequence[str] | None = None) -> None:
        require_onnx(["onnxruntime"])
        self.path, self.providers = str(path), list(providers or ["CPUExecutionProvider"])
        self.inputs = {each.name: tuple(each.shape) for each in self._session.get_inputs()}
        self.outputs = {each.name: tuple(each.shape) for each in self._session.get_outputs()}

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            return onnxruntime.InferenceSession(self.path, options, providers=self.providers)
        except Exception as error:  # ONNX Runtime has classes of its own, one for each kind
            raise ValueError(f"ONNX Runtime cannot read {self.path}: {error}") from error

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, on the device of the inputs.

        Args:
            tensors: inputs by name; those that the model does not take are left out.
        """
        device = next(iter(tensors.values())).device
        given = {name: tensors[name].detach().cpu().numpy() for name in self.inputs if name in tensors}
        found = self._session.run(list(self.outputs), given)
        return {name: torch.from_numpy(each).to(device) for name, each in zip(self.outputs, found, strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}
