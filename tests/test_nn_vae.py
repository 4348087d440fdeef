"""fastvision.nn.Reparameterize and ELBOLoss: against the operators, the stock formulas, and torch's other machinery."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import fastvision
from fastvision import ops
from fastvision.nn import ELBOLoss, Reparameterize

pytestmark = pytest.mark.usefixtures("one_thread")
MODULES = {
    "Reparameterize": lambda: Reparameterize(rng="torch"),
    "ELBOLoss": lambda: ELBOLoss("bce_with_logits", beta=2.0, free_bits=0.25, reduction="batchmean"),
}
by_module = pytest.mark.parametrize("name", MODULES)
STOCK_RECONSTRUCTIONS = {
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def latents(*shape, seed=1):
    """Those of an encoder, which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (6, 5), generator=generator).requires_grad_() for _ in range(2)]


def images():
    """Reconstruction and target in (0, 1), fit for all three losses."""
    return [torch.sigmoid(t).detach().requires_grad_() for t in latents(6, 3, 4, seed=2)]


def arguments(name):
    return latents() if name == "Reparameterize" else [*images(), *latents()]


def run(function, tensors, seed=3):
    """The result from a given state of the generator, and the gradients of its weighted sum."""
    if seed is not None:
        torch.manual_seed(seed)
    result = function(*tensors)
    weights = torch.linspace(-1, 2, result.numel()).reshape(result.shape)
    return result, *torch.autograd.grad((result * weights).sum(), tensors, allow_unused=True)


# Reparameterize


@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_training_samples_as_the_operator(rng):
    tensors = latents()
    actual = run(Reparameterize(rng), tensors)
    assert_close(actual, run(lambda *t: ops.reparameterize(*t, rng=rng), tensors), rtol=0, atol=0)
    assert not torch.equal(actual[0], run(Reparameterize(rng), tensors, seed=4)[0])


def test_torchs_noise_is_that_of_the_stock_formula():
    def stock(mu, logvar):
        return mu + torch.randn_like(logvar) * torch.exp(0.5 * logvar)

    tensors = latents()
    assert_close(run(Reparameterize(rng="torch"), tensors), run(stock, tensors))
    assert not torch.equal(run(Reparameterize(), tensors)[0], run(stock, tensors)[0])


def test_gradients_are_those_of_the_sample():
    mu, logvar = latents()
    z, grad_mu, grad_logvar = run(Reparameterize(), [mu, logvar])
    weights = torch.linspace(-1, 2, z.numel()).reshape(z.shape)
    assert_close(grad_mu, weights)
    assert_close(grad_logvar, weights * (z - mu) / 2)


def test_noise_is_standard_normal():
    mu, logvar = torch.full((100_000,), 3.0), torch.full((100_000,), 1.5)
    noise = (Reparameterize()(mu, logvar) - mu) / torch.exp(logvar / 2)
    assert_close(noise.mean(), torch.tensor(0.0), rtol=0, atol=0.02)  # six standard errors
    assert_close(noise.var(), torch.tensor(1.0), rtol=0, atol=0.03)


@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_eval_mode_gives_the_mean_and_draws_nothing(rng):
    mu, logvar = latents()
    module = Reparameterize(rng).eval()
    before = torch.get_rng_state()
    mean, grad_mu, grad_logvar = run(module, [mu, logvar], seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(mean, mu, rtol=0, atol=0)
    assert_close(grad_mu, torch.linspace(-1, 2, 30).reshape(6, 5))
    assert grad_logvar is None
    assert not torch.equal(module.train()(mu, logvar), mu)


def test_modes_agree_on_shape_and_dtype():
    mu, logvar = torch.randn(3, 1), torch.randn(4, dtype=torch.float64)
    module = Reparameterize()
    sample, mean = module(mu, logvar), module.eval()(mu, logvar)
    assert sample.shape == mean.shape == (3, 4)
    assert sample.dtype == mean.dtype == torch.float64
    assert_close(mean, mu.double().expand(3, 4))
    for mode in (True, False):
        with pytest.raises(RuntimeError, match=r"shape|size"):
            module.train(mode)(torch.randn(3), torch.randn(4))


# ELBOLoss


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("reconstruction", STOCK_RECONSTRUCTIONS)
@pytest.mark.parametrize(("beta", "free_bits"), [(1.0, 0.0), (2.5, 0.4)])
def test_loss_is_the_stock_formula(reconstruction, beta, free_bits, reduction):
    def stock(recon, target, mu, logvar):
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp())
        if free_bits:
            kl = torch.where(kl > free_bits, kl, free_bits)
        terms = STOCK_RECONSTRUCTIONS[reconstruction](recon, target, reduction="none")
        if reduction == "batchmean":
            return terms.sum() / 6 + beta * kl.sum() / 6
        return getattr(terms, reduction)() + beta * getattr(kl, reduction)()

    options = {"reconstruction": reconstruction, "beta": beta, "free_bits": free_bits, "reduction": reduction}
    recon, target, mu, logvar = arguments("ELBOLoss")
    tensors, loss = [recon, mu, logvar], ELBOLoss(**options)
    actual = run(lambda r, m, v: loss(r, target.detach(), m, v), tensors)
    assert_close(actual, run(lambda r, m, v: stock(r, target.detach(), m, v), tensors))
    assert_close(actual, run(lambda r, m, v: ops.elbo_loss(r, target.detach(), m, v, **options), tensors))


def test_loss_defaults_are_the_operators():
    tensors = arguments("ELBOLoss")
    assert_close(ELBOLoss()(*tensors), ops.elbo_loss(*tensors), rtol=0, atol=0)
    assert_close(ELBOLoss().eval()(*tensors), ops.elbo_loss(*tensors), rtol=0, atol=0)


def test_changed_attributes_show():
    tensors = arguments("ELBOLoss")
    module = ELBOLoss()
    module.beta, module.reduction = 3.0, "mean"
    assert_close(module(*tensors), ops.elbo_loss(*tensors, beta=3.0, reduction="mean"))


def test_numbers_of_numpy_are_numbers():
    module = ELBOLoss(beta=np.float32(0.5), free_bits=np.int64(2))
    assert (type(module.beta), module.beta) == (float, 0.5)
    assert (type(module.free_bits), module.free_bits) == (float, 2.0)


# Both


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Reparameterize("numpy"), ValueError, "rng: expected 'philox' or 'torch', got 'numpy'"),
        (
            lambda: ELBOLoss("l1"),
            ValueError,
            "reconstruction: expected 'mse', 'bce' or 'bce_with_logits', got 'l1'",
        ),
        (
            lambda: ELBOLoss(reduction="none"),
            ValueError,
            "reduction: expected 'sum', 'mean' or 'batchmean', got 'none'",
        ),
        (lambda: ELBOLoss(reduction=None), ValueError, "reduction: expected 'sum', 'mean' or 'batchmean', got None"),
        (lambda: ELBOLoss(free_bits=-0.1), ValueError, "free_bits: expected a number of at least 0, got -0.1"),
        (lambda: ELBOLoss(free_bits=float("nan")), ValueError, "free_bits: expected a number of at least 0, got nan"),
        (lambda: ELBOLoss(free_bits=None), TypeError, "free_bits: expected a number, got NoneType"),
        (lambda: ELBOLoss(beta="1"), TypeError, "beta: expected a number, got str"),
    ],
)
def test_bad_options_are_refused_at_construction(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_representations_tell_the_options():
    assert repr(Reparameterize()) == "Reparameterize(rng='philox')"
    assert repr(MODULES["Reparameterize"]()) == "Reparameterize(rng='torch')"
    options = "reconstruction='bce_with_logits', beta=2.0, free_bits=0.25, reduction='batchmean'"
    assert repr(MODULES["ELBOLoss"]()) == f"ELBOLoss({options})"


@by_module
def test_nothing_to_store(name):
    module = MODULES[name]()
    assert not module.state_dict()
    assert not list(module.parameters())
    module.load_state_dict({})


@by_module
def test_copies_and_pickles(name):
    module, tensors = MODULES[name]().eval(), arguments(name)
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(clone) is type(module)
        assert repr(clone) == repr(module)
        assert not clone.training
        assert_close(run(clone.train(), tensors), run(MODULES[name](), tensors), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "make"), [("Reparameterize", Reparameterize), *MODULES.items()], ids=["philox", "torch", "ELBOLoss"]
)
def test_compiles_as_one_graph(name, make, training):
    torch.compiler.reset()
    module, tensors = make().train(training), arguments(name)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_close(run(compiled, tensors), run(module, tensors))


def test_compiled_loss_follows_beta():
    torch.compiler.reset()
    module, tensors = ELBOLoss(), arguments("ELBOLoss")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for beta in (0.0, 0.5, 1.0):
        module.beta = beta
        assert_close(compiled(*tensors), ops.elbo_loss(*tensors, beta=beta))


def test_autocast():
    mu, logvar = (t.bfloat16() for t in latents())
    recon, target = (t.bfloat16() for t in images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Reparameterize()(mu, logvar).dtype == torch.bfloat16
        loss = ELBOLoss()(recon, target, mu, logvar)
    assert loss.dtype == torch.float32
    assert_close(loss, ELBOLoss()(recon.float(), target.float(), mu.float(), logvar.float()))
    assert ELBOLoss()(recon, target, mu, logvar).dtype == torch.bfloat16


class Autoencoder(nn.Module):
    """A network as users write it."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 2 * 3), nn.Linear(3, 12)
        self.sample, self.loss = fastvision.nn.Reparameterize(), fastvision.nn.ELBOLoss(beta=0.1, reduction="batchmean")

    def forward(self, image):
        mu, logvar = self.encoder(image).chunk(2, -1)
        return self.loss(self.decoder(self.sample(mu, logvar)), image, mu, logvar)


def test_autoencoder_learns():
    torch.manual_seed(0)
    network, image = Autoencoder(), torch.randn(64, 3) @ torch.randn(3, 12)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        losses.append(network(image))
        losses[-1].backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
    assert sum(losses[-10:]) / 10 < 0.3 * losses[0]
