"""torch.compile(model, backend="fastvision"): a variational autoencoder's sample and KL, as they are mostly written."""

import pytest
import torch
from torch.testing import assert_close

from fastvision.convert.backend import fastvision as backend
from fastvision.ops.vae import reparameterize_reference

pytestmark = pytest.mark.usefixtures("one_thread")
OPS = torch.ops.fastvision


class Inner:
    """The backend for the rest, which counts calls of functions by their names."""

    def __call__(self, graph_module, example_inputs):
        self.names = [getattr(node.target, "__name__", str(node.target)) for node in graph_module.graph.nodes]
        return torch._dynamo.lookup_backend("aot_eager")(graph_module, example_inputs)


def compile_with(function, inner):
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True, options={"inner": inner})


def latents(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(2)]


def noise_of(seed, shape):
    torch.manual_seed(seed)
    return OPS.standard_normal(shape, OPS.philox_state(torch.empty(0)))


def old_example(mu, logvar):
    std = logvar.mul(0.5).exp_()
    eps = torch.randn_like(std)
    return eps.mul(std).add_(mu)


SAMPLES = {
    "operators": lambda mu, logvar: mu + torch.randn_like(mu) * torch.exp(0.5 * logvar),
    "other order": lambda mu, logvar: torch.exp(logvar / 2) * torch.randn_like(logvar) + mu,
    "in place": old_example,
    "methods": lambda mu, logvar: mu.add((logvar * 0.5).exp().mul(torch.randn_like(mu))),
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_samples_are_replaced(sample):
    inner, (mu, logvar) = Inner(), latents(3, 4)
    compiled = compile_with(sample, inner)
    noise, grad = noise_of(5, (3, 4)), torch.randn(3, 4)
    torch.manual_seed(5)
    z = compiled(mu, logvar)
    expected = reparameterize_reference(mu, logvar, noise)
    assert "randn_like" not in inner.names
    assert_close(z, expected)
    gradients = [torch.autograd.grad(result, (mu, logvar), grad) for result in (z, expected)]
    assert_close(*gradients)


KLS = {
    "sum": lambda mu, logvar: -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()),
    "mean, other order": lambda mu, logvar: 0.5 * (torch.exp(logvar) + mu**2 - 1.0 - logvar).mean(),
    "mean over the batch": lambda mu, logvar: torch.mean(
        -0.5 * torch.sum(1 + logvar - mu * mu - logvar.exp(), dim=1), dim=0
    ),
    "inside the sum": lambda mu, logvar: (-0.5 * (1 + logvar - mu.square() - logvar.exp())).sum(1).mean() * 3,
}


@pytest.mark.parametrize("kl", KLS.values(), ids=KLS)
def test_kl_is_replaced(kl):
    inner, (mu, logvar) = Inner(), latents(3, 4)
    actual, expected = compile_with(kl, inner)(mu, logvar), kl(mu, logvar)
    assert "_kl" in inner.names
    assert "exp" not in inner.names
    assert_close(actual, expected)
    assert_close(*[torch.autograd.grad(result, (mu, logvar)) for result in (actual, expected)])


def loss(mu, logvar):
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    z = SAMPLES["operators"](mu, logvar)
    return z.square().sum() + kl


def test_sample_and_kl_become_one_call_for_any_batch():
    inner = Inner()
    compiled = compile_with(loss, inner)
    for batch in (3, 5, 7):
        mu, logvar = latents(batch, 4)
        noise = noise_of(5, mu.shape)
        torch.manual_seed(5)
        actual = compiled(mu, logvar)
        expected = reparameterize_reference(mu, logvar, noise).square().sum() + KLS["sum"](mu, logvar)
        assert inner.names.count("reparameterize_kl") == 1
        assert not {"_kl", "exp", "randn_like"} & set(inner.names)
        assert_close(actual, expected)


def mutated(mu, logvar):
    std = torch.exp(0.5 * logvar)
    mu = mu * 1
    mu_before = mu + 0
    eps = torch.randn_like(std)
    mu.add_(1)
    return mu + eps * std + mu_before


LEFT_ALONE = {
    "another factor": lambda mu, logvar: mu + torch.randn_like(mu) * torch.exp(0.4 * logvar),
    "noise that is seen": lambda mu, logvar: (lambda e: mu + e * torch.exp(0.5 * logvar) + e)(torch.randn_like(mu)),
    "noise of a row": lambda mu, logvar: mu + torch.randn_like(mu[:1]) * torch.exp(0.5 * logvar),
    "in place between": mutated,
    "noise of another dtype": lambda mu, logvar: mu + torch.randn_like(mu, dtype=torch.float64) * (0.5 * logvar).exp(),
    "another sign": lambda mu, logvar: torch.sum(1 + logvar + mu.pow(2) - logvar.exp()),
    "another power": lambda mu, logvar: torch.sum(1 + logvar - mu.pow(3) - logvar.exp()),
    "another logvar": lambda mu, logvar: torch.sum(1 + mu - mu.pow(2) - logvar.exp()),
    "sum over the batch": lambda mu, logvar: torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), 0).mean(),
    "two constants": lambda mu, logvar: torch.sum(1 + logvar - mu.pow(2) - logvar.exp() + 1),
}


@pytest.mark.parametrize("function", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_another_formula_stays(function):
    inner, (mu, logvar) = Inner(), [t.detach() for t in latents(3, 4)]
    compiled = compile_with(function, inner)
    results = []
    for run in (compiled, function):
        torch.manual_seed(5)
        results.append(run(mu, logvar))
    assert_close(*results)
    assert not {"reparameterize", "reparameterize_kl", "_kl"} & set(inner.names)


def test_noise_of_torch_where_inductor_is_told_to_keep_it():
    inner, (mu, logvar) = Inner(), latents(3, 4)
    with torch._inductor.config.patch(fallback_random=True):
        torch.manual_seed(5)
        z = compile_with(SAMPLES["operators"], inner)(mu, logvar)
    torch.manual_seed(5)
    assert_close(z, SAMPLES["operators"](mu, logvar))
