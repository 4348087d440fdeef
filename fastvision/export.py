"""Models as files that run without their Python code, and without Python.

A file is an AOTInductor package (.pt2): torch.export records the model, Inductor compiles what is not fastvision's into
a shared library of the machine at hand, and fastvision's operators are called by name. A program that runs it, in
Python or C++, has PyTorch of the same version, and libfastvision, which has those operators.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastvision.convert import convert


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Converts a model, compiles it ahead of time and writes it to a file, for inference.

    The model itself is left as it is. Its mode is kept: call `model.eval()` before, unless dropout, batch statistics
    and samples are to be what they are in training.

    Args:
        model: any module that torch.export takes, converted or not; on the device that it shall run on.
        example_inputs: a tensor, or a tuple of positional arguments. Sizes are fixed to theirs, unless dynamic_shapes
            says otherwise, and so are arguments that are not tensors.
        path: of the file to write; its name ends in '.pt2'.
        kwargs: arguments by name.
        dynamic_shapes: which sizes are free, as torch.export.export takes it: `({0: torch.export.Dim("batch")},)` or
            `{"input": {0: torch.export.Dim.DYNAMIC}}` for the first dimension of the only argument. In an example a
            free size should be 2 or more.
        options: Inductor's, such as `{"max_autotune": True}`.

    Returns:
        Path of the file.

    Raises:
        TypeError: model is not a module.
        ValueError: path ends otherwise.
        RuntimeError, torch._dynamo.exc.UserError: torch.export or Inductor can't take the model or the sizes; their
            messages say why.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path: expected a name that ends in '.pt2', got '{path}'")
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    converted = convert(model)
    with torch.no_grad():
        program = torch.export.export(converted, arguments, dict(kwargs or {}), dynamic_shapes=dynamic_shapes)
        # Inductor takes seconds to import, which programs that do not compile must not pay.
        from torch._inductor import aoti_compile_and_package

        aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(options or {}))
    return path


def load(path: str | os.PathLike[str]) -> Callable:
    """The model in a file that `export` wrote, as a function of the arguments that it was exported with.

    Results have no gradients. Calls from several threads wait for each other.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: it is no package, or of another PyTorch.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a file that fastvision.export wrote, got '{path}', which is none")
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path))


def library_path() -> Path:
    """The shared library of fastvision's operators, for programs without Python: load or link it, beside libtorch.

    It opens the kernel libraries beside it that suit the processor, so it has to stay in its directory.
    """
    return Path(__file__).parent / "libfastvision.so"
