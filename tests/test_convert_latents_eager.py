"""convert, revert and explain on the sample and KL of variational autoencoders, in their own forwards."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from convert_autoencoders import VAE, Convolutional, Decomposed, InPlace, Sampler
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fastvision.convert import convert, explain, revert
from fastvision.ops.vae import reparameterize_reference

pytestmark = pytest.mark.usefixtures("one_thread")
OPS = torch.ops.fastvision


class Operators(TorchDispatchMode):
    """The names of fastvision's operators that run."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        namespace, _, name = function._schema.name.partition("::")
        if namespace == "fastvision" and name not in ("philox_state", "linear"):
            self.names.append(name.removesuffix("_forward"))
        return function(*args, **(kwargs or {}))


def operators(model, *inputs):
    with torch.no_grad(), Operators() as run:
        model(*inputs)
    return run.names


def results(model, *inputs, seed=3):
    """Outputs and gradients of a step."""
    torch.manual_seed(seed)
    leaves = [input.clone().requires_grad_() for input in inputs]
    outputs = model(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = torch.autograd.grad(
        sum(o.square().sum() for o in outputs), [*leaves, *model.parameters()], allow_unused=True
    )
    return [*outputs, *(gradient for gradient in gradients if gradient is not None)]


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def latents(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(2)]


# Each with its inputs, and the operators of fastvision that a forward calls in training with the noise of torch, and
# with fastvision's: where that is one, it computes KL, too.
KL = "elbo_loss"
MODELS = {
    "VAE": (VAE, lambda: [random(5, 12)], [KL], ["reparameterize"]),
    "InPlace": (InPlace, lambda: [random(5, 12)], [KL], ["reparameterize"]),
    "Sampler": (Sampler, lambda: latents(5, 3), [], ["reparameterize"]),
    "Convolutional": (
        Convolutional, lambda: [random(5, 16)], ["conv2d_pool2d", KL], ["conv2d_pool2d", "reparameterize", KL]
    ),
    "Decomposed": (Decomposed, lambda: latents(5, 3), [KL], [KL]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_same_numbers_with_the_noise_of_torch(name):
    build, inputs, with_torch, _ = MODELS[name]
    torch.manual_seed(0)
    model, inputs = build(), inputs()
    converted = convert(model, tuple(inputs))
    assert operators(converted, *inputs) == with_torch
    for training in (True, False, True):
        model.train(training)
        converted.train(training)
        assert_close(results(converted, *inputs), results(model, *inputs))
    for clone in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert_close(results(clone, *inputs), results(model, *inputs))
    assert list(converted.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_noise_of_fastvision(name):
    build, inputs, with_torch, with_philox = MODELS[name]
    model, inputs = build(), inputs()
    for converted in (convert(model, tuple(inputs), rng="philox"), convert(convert(model), rng="philox")):
        for clone in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
            assert sorted(operators(clone, *inputs)) == sorted(with_philox)
    assert operators(convert(converted), *inputs) == with_torch
    revert(converted)
    for module, stock in zip(converted.modules(), model.modules(), strict=True):
        assert type(module) is type(stock)
        assert vars(module).keys() == vars(stock).keys()


def test_the_sample_is_that_of_the_operator():
    mu, logvar = latents(5, 3)
    torch.manual_seed(5)
    noise = OPS.standard_normal(mu.shape, OPS.philox_state(torch.empty(0)))
    converted = convert(Sampler(), rng="philox")
    torch.manual_seed(5)
    assert_close(converted(mu, logvar), reparameterize_reference(mu, logvar, noise))
    assert torch.equal(converted.eval()(mu, logvar), mu)


class Both(nn.Module):
    def forward(self, mu, logvar):
        kl = torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        return mu + torch.randn_like(logvar) * torch.exp(0.5 * logvar), kl


def of_shapes(*shapes):
    return [random(*shape) for shape in shapes]


UNSUITED = {
    "broadcast": lambda: of_shapes((5, 3), (3,)),
    "three dimensions": lambda: of_shapes((5, 3, 2), (5, 3, 2)),
    "float64": lambda: [t.double() for t in of_shapes((5, 3), (5, 3))],
    "two dtypes": lambda: [random(5, 3), random(5, 3).bfloat16()],
}


@pytest.mark.parametrize("inputs", UNSUITED.values(), ids=UNSUITED)
def test_latents_that_do_not_suit_are_computed_as_written(inputs):
    model, inputs = Both(), inputs()
    converted = convert(model, rng="philox")
    assert_close(results(converted, *inputs), results(model, *inputs))
    assert operators(converted, *of_shapes((5, 3), (5, 3))) == ["reparameterize"]


def test_autocast_computes_as_written():
    model, inputs = VAE(), [random(5, 12)]
    converted = convert(model, rng="philox")
    with torch.autocast("cpu"):
        assert operators(converted, *inputs) == []
        outputs = []
        for module in (model, converted):
            torch.manual_seed(2)
            outputs.append(module(*inputs)[2])
    assert torch.equal(*outputs)


class Seen(nn.Module):
    def forward(self, mu, logvar):
        eps = torch.randn_like(mu)
        return mu + eps * torch.exp(0.5 * logvar), eps


class AnotherFactor(nn.Module):
    def forward(self, mu, logvar):
        return mu + torch.randn_like(mu) * torch.exp(logvar)


class NoiseOfARow(nn.Module):
    def forward(self, mu, logvar):
        return mu + torch.randn_like(mu[:1]) * torch.exp(0.5 * logvar)


class AnotherSign(nn.Module):
    def forward(self, mu, logvar):
        return torch.sum(1 + logvar + mu.pow(2) - logvar.exp())


class Changed(nn.Module):
    """mu changes between its uses."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, mu, logvar):
        squared = mu.pow(2)
        half = mu[:, :1]
        self.act(half)
        return torch.sum(1 + logvar - squared - logvar.exp()), mu


class ChangedByAMethod(nn.Module):
    def forward(self, mu, logvar):
        squared = mu.pow(2)
        mu.clamp_(min=0)
        return torch.sum(1 + logvar - squared - logvar.exp()), mu


_EXACT_SAMPLE = "is not exactly mu + randn_like(std) * std with std = exp(logvar / 2)"
LEFT_ALONE = {
    Seen: _EXACT_SAMPLE,
    AnotherFactor: _EXACT_SAMPLE,
    NoiseOfARow: _EXACT_SAMPLE,
    AnotherSign: "is not exactly the sum or mean of 1 + logvar - mu^2 - exp(logvar)",
    Changed: "stands among calls that may change its parts",
    ChangedByAMethod: "stands among calls that may change its parts",
}


@pytest.mark.parametrize("kind", LEFT_ALONE, ids=lambda kind: kind.__name__)
def test_what_is_another_formula_stays(kind):
    model = kind()
    assert type(convert(model, rng="philox")) is kind
    rows = explain(model).rows
    assert [(rows[0].status, rows[0].reason)] == [("not replaced", LEFT_ALONE[kind])]


def test_explain():
    def table(model):
        return [
            (row.name, row.layers, row.status, row.reason) for row in explain(model).rows if "Linear" not in row.layers
        ]

    sample, kl = ("mul", "exp", "randn_like", "mul", "add"), ("add", "pow", "sub", "exp", "sub", "sum", "mul")
    assert table(VAE()) == [
        ("(model)", sample, "replaceable", "one reparameterize, if convert is given rng='philox'"),
        ("(model)", kl, "replaceable", "KL of one elbo_loss(reduction='sum')"),
    ]
    assert table(convert(VAE())) == [
        ("(model)", sample, "not replaced", "draws the noise of torch; convert(model, rng='philox') replaces it"),
        ("(model)", kl, "replaced", "KL of one elbo_loss(reduction='sum')"),
    ]
    both = "one reparameterize_kl(reduction='sum') for sample and KL"
    assert [row[2:] for row in table(convert(VAE(), rng="philox"))] == [("replaced", both)] * 2
    rows = explain(convert(Convolutional(), rng="philox")).rows
    assert ("sampler", "replaced", "one reparameterize") in [(row.name, row.status, row.reason) for row in rows]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="rng: expected 'torch' or 'philox', got 'numpy'"):
        convert(VAE(), rng="numpy")


def test_moments_of_the_noise():
    mu, logvar = torch.zeros(1000, 100), F.logsigmoid(torch.full((1000, 100), 2.0))
    z = convert(Sampler(), rng="philox")(mu, logvar) / (0.5 * logvar).exp()
    assert abs(z.mean()) < 0.02
    assert abs(z.var() - 1) < 0.03
