"""Rules of torch.vmap for operators whose arguments are lists or whose results are random: one call for each example.

torch makes such loops itself for the others.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_OPS = torch.ops.fastvision


def _select(value: Any, dim: Any, index: int) -> Any:
    """Of an argument the part that belongs to one example."""
    if isinstance(value, list | tuple):
        return (
            [_select(v, d, index) for v, d in zip(value, dim, strict=True)] if isinstance(dim, list | tuple) else value
        )
    return value if dim is None else value.select(dim, index)


def _one_by_one(call: Callable[..., Any], info: Any, in_dims: tuple, arguments: tuple) -> tuple[Any, Any]:
    """Results of `call(index, *arguments of the example)`, stacked, and their dimensions as torch wants them."""
    results = []
    for index in range(info.batch_size):
        results.append(call(index, *(_select(a, d, index) for a, d in zip(arguments, in_dims, strict=True))))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _sequence(name: str) -> Callable:
    operator = getattr(_OPS, name).default

    def rule(info, in_dims, *arguments, **keywords):
        names = [argument.name for argument in operator._schema.arguments]
        given = dict(zip(names, arguments, strict=False)) | keywords
        if given["train"] and given["dropout"] > 0:
            _check_random(name, info, ("different",))
        return _one_by_one(lambda _, *args: operator(*args, **keywords), info, in_dims, arguments)

    return rule


def _sample(name: str) -> Callable:
    operator = getattr(_OPS, name).default

    def rule(info, in_dims, *arguments, generator=None, **keywords):
        _check_random(name, info, ("different", "same"))
        if info.randomness == "different":
            return _one_by_one(
                lambda _, *args: operator(*args, generator=generator, **keywords), info, in_dims, arguments
            )
        mu, logvar = (_select(a, d, 0) for a, d in zip(arguments, in_dims, strict=True))
        noise = torch.randn((mu + logvar).shape, generator=generator, dtype=(mu + logvar).dtype, device=mu.device)
        reduction = keywords.get("reduction", "sum") if name == "reparameterize_kl" else None

        def call(_, mu, logvar):
            z, kl = _OPS.reparameterize_reference(mu, logvar, noise, reduction)
            return z if reduction is None else (z, kl)

        return _one_by_one(call, info, in_dims, arguments)

    return rule


def _check_random(name: str, info: Any, known: tuple[str, ...]) -> None:
    if info.randomness not in known:
        expected = " or ".join(map(repr, known))
        raise RuntimeError(f"fastvision::{name}: torch.vmap: expected randomness={expected}, got {info.randomness!r}")


for _name in ("lstm", "gru"):
    torch.library.register_vmap(f"fastvision::{_name}", _sequence(_name))
for _name in ("reparameterize", "reparameterize_kl"):
    torch.library.register_vmap(f"fastvision::{_name}", _sample(_name))
