"""What of a model is fused, what is not, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.fx import Graph, Node
from torch.nn.utils import parametrize

from fastvision.convert.chains import Chain
from fastvision.convert.converted import stock_type
from fastvision.convert.direct import is_plain
from fastvision.convert.latent_calls import draws_like_its_own, eager_groups
from fastvision.convert.latents import Match, find_divergences, find_samples, resembles
from fastvision.convert.layers import is_ours, operator_name, replacement
from fastvision.convert.runs import CONVOLUTIONS, Run, find_runs, obstacle
from fastvision.convert.sequential import FusedForward, does_nothing, flatten, runs_its_children
from fastvision.convert.traced import TracedForward, calls_convolutions, chains_of, is_candidate, lone_pools, trace
from fastvision.convert.tracing import Trace, UntraceableError
from fastvision.nn import Linear

REPLACED = "replaced"
REPLACEABLE = "replaceable"
NOT_REPLACED = "not replaced"


@dataclass(frozen=True)
class Row:
    """A layer, a run of layers that one operator does, or a formula in a forward of the model's own.

    Attributes:
        name: qualified name as in named_modules(), the first and the last one for a run, the module's for a formula.
        layers: class names, of a formula names of functions, in the order they run.
        status: 'replaced', 'replaceable' (by `fastvision.convert`) or 'not replaced'.
        reason: the operator that does the run, or why it is not replaced.
    """

    name: str
    layers: tuple[str, ...]
    status: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The result of `fastvision.explain`: `rows` for programs, `str()` for readers."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        header = ("name", "layers", "status", "why")
        cells = [(row.name, " + ".join(row.layers), row.status, row.reason) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        lines = [_line(header, widths), _line(["-" * width for width in widths], widths)]
        lines += [_line(row, widths) for row in cells]
        counts = [f"{self.count(status)} {status}" for status in (REPLACED, REPLACEABLE, NOT_REPLACED)]
        return "\n".join([*lines, ", ".join(counts)])

    def count(self, status: str) -> int:
        """The number of rows with that status."""
        return sum(row.status == status for row in self.rows)


def explain(model: nn.Module) -> Report:
    """Lists every layer of a model, converted or not: replaced, replaceable or not replaced, and why.

    Of weights that are stored in fewer bits it gives the error. The report holds for the mode the model is in:
    BatchNorm2d and Dropout are only fused in eval mode.

    Raises:
        TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return Report(tuple(_Explanation(model).rows(model, "has no layers around it to be fused with")))


class _Explanation:
    """Makes the rows of a model, each module once."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name or "(model)" for name, module in model.named_modules()}
        self._seen: set[nn.Module] = set()
        self._runs: dict[nn.Module, list[Row]] = {}  # by convolution, of forwards that were traced
        self._reasons: dict[nn.Module, str] = {}  # of convolutions in such a forward that are in no run

    def rows(self, module: nn.Module, alone: str) -> Iterator[Row]:
        """Rows of a module and all in it. `alone` says why a layer here has no chance of being fused."""
        if module in self._seen:
            return
        self._seen.add(module)
        found = _traced(module)
        formulas = []
        if isinstance(found, Trace):
            name = self._names[module]
            formulas = [*_formula_rows(module, found.graph, name), *_pool_rows(module, found, name)]
        yield from formulas
        if module in self._runs:
            yield from self._runs[module]
        elif is_ours(module) or replacement(module):
            yield _replacement_row(module, self._names)
        elif formulas and not module._modules:
            return
        elif not module._modules or parametrize.is_parametrized(module):
            yield _unfused_row(module, obstacle(module) or self._reasons.get(module, alone), self._names)
        elif _runs_as_one(module):
            yield from self._sequential_rows(module)
        else:
            alone = self._read_forward(module, found)
            for child in module.children():
                yield from self.rows(child, alone)

    def _sequential_rows(self, sequential: nn.Sequential) -> Iterator[Row]:
        containers, layers = flatten(sequential)
        self._seen.update(containers)
        position = 0
        for step in find_runs(layers):
            if isinstance(step, Run):
                last = self._names[step.layers[-1]]
                yield _run_row(step, last, isinstance(sequential, FusedForward), self._names)
            elif step not in self._seen and _continues_linear(layers, position):
                self._seen.add(step)
                status = REPLACED if isinstance(sequential, FusedForward) else REPLACEABLE
                yield Row(self._names[step], ("ReLU",), status, "is done by the linear before it")
            else:
                yield from self.rows(step, _why_alone(layers, position))
            position += len(step.layers) if isinstance(step, Run) else 1

    def _read_forward(self, module: nn.Module, found: Trace | UntraceableError | None) -> str:
        """Notes what the forward of a module does with its convolutions; why other layers are in no run."""
        forward = f"{stock_type(module).__name__}.forward"
        if found is None or not calls_convolutions(module):
            return f"is called by {forward}, which calls no Conv2d"
        if isinstance(found, UntraceableError):
            return f"is called by {forward}, which {found}"
        for chain in chains_of(found):
            convolution = chain.layers[0]
            if chain.length == 1:
                self._reasons[convolution] = _why_chain_ends(chain)
                continue
            run, last = chain.run(), chain.nodes[chain.length - 1]
            last_name = self._names.get(run.layers[-1]) or f"{_target_name(last)}()"
            row = _run_row(run, last_name, isinstance(module, TracedForward), self._names)
            self._runs.setdefault(convolution, []).append(row)
            self._seen.update(run.layers[1:])
        return f"is in no run of {forward} that starts with a Conv2d"


def _traced(module: nn.Module) -> Trace | UntraceableError | None:
    """Of a forward in which something may be replaced, or why that can't be traced."""
    if not is_candidate(module):
        return None
    try:
        return trace(module)
    except UntraceableError as error:
        return error


def _formula_rows(module: nn.Module, graph: Graph, name: str) -> list[Row]:
    """Rows of what the forward of a module computes of latents, and of what looks like it."""
    converted = isinstance(module, TracedForward)
    rng = module._rng if converted else "philox"
    replaced = {id(match.root): matches for matches in eager_groups(graph, rng) for match in matches}
    known, rows = set(), []
    samples = filter(draws_like_its_own, find_samples(graph))
    for match in (*samples, *find_divergences(graph)):
        known |= match.nodes
        matches = replaced.get(id(match.root))
        status = NOT_REPLACED if matches is None else REPLACED if converted else REPLACEABLE
        rows.append(Row(name, _functions(graph, match), status, _latents_reason(match, matches, rng, converted)))
    meant = [(node, resembles(node)) for node in graph.nodes if node not in known]
    return rows + [Row(name, (_target_name(n),), NOT_REPLACED, f"is not exactly {what}") for n, what in meant if what]


def _pool_rows(module: nn.Module, found: Trace, name: str) -> list[Row]:
    """Rows of the calls of pools in the forward of a module that are in no run."""
    status = REPLACED if isinstance(module, TracedForward) else REPLACEABLE
    pools = lone_pools(found, chains_of(found))
    names = [_target_name(node) for node in pools]
    return [Row(name, (pool,), status, f"calls fastvision.ops.{pool}") for pool in names]


def _functions(graph: Graph, match: Match) -> tuple[str, ...]:
    return tuple(_target_name(node) for node in graph.nodes if node in match.nodes)


def _latents_reason(match: Match, matches: list[Match] | None, rng: str, converted: bool) -> str:
    if matches is None:
        if match.reduction is None and rng == "torch":
            return "draws the noise of torch; convert(model, rng='philox') replaces it"
        return "stands among calls that may change its parts"
    if not converted and match.reduction is None:
        return "one reparameterize, if convert is given rng='philox'"
    if converted and len(matches) == 2:
        return f"one reparameterize_kl(reduction='{matches[1].reduction}') for sample and KL"
    if match.reduction is not None:
        return f"KL of one elbo_loss(reduction='{match.reduction}')"
    return "one reparameterize"


def _runs_as_one(module: nn.Module) -> bool:
    """Whether runs are sought across the Sequentials in this one: not if only those were converted."""
    if not runs_its_children(module):
        return False
    inner = flatten(module)[0][1:]
    return isinstance(module, FusedForward) or not any(isinstance(container, FusedForward) for container in inner)


def _run_row(run: Run, last: str, converted: bool, names: dict[nn.Module, str]) -> Row:
    options = f"(activation='{run.activation}', pool='{run.options.get('pool', 'max')}')"
    call = f"one conv2d_pool2d{options}"
    if run.norm is not None:
        call = f"one conv2d_batch_norm_pool2d{options}; with gradients for inputs of {run.least_input} elements or more"
    hindrance = run.hindrance()
    return Row(
        name=f"{names[run.layers[0]]} to {last}",
        layers=tuple(type(layer).__name__ for layer in run.layers),
        status=NOT_REPLACED if hindrance else REPLACED if converted else REPLACEABLE,
        reason=hindrance or call,
    )


def _replacement_row(layer: nn.Module, names: dict[nn.Module, str]) -> Row:
    status = REPLACED if is_ours(layer) else REPLACEABLE
    reason = f"calls {operator_name(layer)}{_storage_note(layer)}"
    return Row(names[layer], (type(layer).__name__,), status, reason)


def _storage_note(layer: nn.Module) -> str:
    dtype = getattr(layer, "weight_dtype", None)
    if dtype is None:
        return ""
    name, error = str(dtype).removeprefix("torch."), layer.weight_error()
    if error is None:
        return f", of these parameters without copies in {name}"
    return f", in inference with weights in {name} (rms error {100 * error:.2g} % of theirs)"


def _unfused_row(layer: nn.Module, reason: str, names: dict[nn.Module, str]) -> Row:
    return Row(names[layer], (type(layer).__name__,), NOT_REPLACED, reason)


def _continues_linear(layers: list[nn.Module], position: int) -> bool:
    """Whether a layer is the ReLU of a Linear before it, between which nothing is done."""
    layer = layers[position]
    before = next((earlier for earlier in reversed(layers[:position]) if not does_nothing(earlier)), None)
    is_pair = type(layer) is nn.ReLU and type(before) in (nn.Linear, Linear)
    return is_pair and is_plain(layer) and is_plain(before)


def _why_alone(layers: list[nn.Module], position: int) -> str:
    """Why a layer that has no obstacle of its own is in no run."""
    if type(layers[position]) not in CONVOLUTIONS:
        return "does not continue a run that starts with a Conv2d"
    following = layers[position + 1] if position + 1 < len(layers) else None
    hindrance = None if following is None else obstacle(following)
    if hindrance:
        return f"is followed by {stock_type(following).__name__}, which {hindrance}"
    return "is not followed by BatchNorm2d, ReLU or pooling"


def _why_chain_ends(chain: Chain) -> str:
    """Why a convolution that a forward calls is in no run, if it has no obstacle of its own."""
    if len(chain.layers) > 1:
        return _why_alone(chain.layers, 0)
    users = list(chain.nodes[0].users)
    if len(users) == 1:
        return f"is followed by {_target_name(users[0])}, which is not fused"
    return f"has an output that is used {len(users)} times"


def _target_name(node: Node) -> str:
    return node.op if node.op == "output" else getattr(node.target, "__name__", str(node.target))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
