"""The operators of the variational autoencoder against stock PyTorch in float64, given the same noise."""

import math

import pytest
import torch
import torch.nn.functional as F

import fastvision
from fastvision.ops import elbo_loss, reparameterize, reparameterize_kl

ops = torch.ops.fastvision
REDUCTIONS = ("sum", "mean", "batchmean", "none")
RECONSTRUCTIONS = ("mse", "bce", "bce_with_logits")
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float64: 1e-12}
SHAPES = ((0, 3), (), (1,), (7, 13), (3, 1100), (2, 5, 4099))


def latents(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(len(shape) + sum(shape))
    return torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype).requires_grad_()


def noise_of(seed: int, size: torch.Size) -> torch.Tensor:
    """What the next call after torch.manual_seed(seed) draws, in float64."""
    torch.manual_seed(seed)
    return ops.standard_normal(size, ops.philox_state(torch.empty(0)), dtype=torch.float64)


def exact(mu, logvar, noise, reduction):
    """The stock formulas in float64."""
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp())
    reduced = {"sum": kl.sum, "mean": kl.mean, "none": lambda: kl}
    return mu + noise * (0.5 * logvar).exp(), kl.sum() / len(kl) if reduction == "batchmean" else reduced[reduction]()


def assert_near(actual, expected, dtype):
    torch.testing.assert_close(
        actual.double(), expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype], equal_nan=True
    )


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("reduction", "shape"), [(r, s) for r in REDUCTIONS for s in SHAPES if s or r != "batchmean"], ids=str
)
def test_values_and_gradients(reduction, shape, dtype, capability):
    mu, logvar = latents(*shape, dtype=dtype)
    torch.manual_seed(5)
    z, kl = reparameterize_kl(mu, logvar, reduction=reduction)
    mu64, logvar64 = (t.detach().double().requires_grad_() for t in (mu, logvar))
    z64, kl64 = exact(mu64, logvar64, noise_of(5, mu.shape), reduction)
    assert z.dtype == kl.dtype == dtype
    assert_near(z, z64, dtype)
    assert_near(kl, kl64, dtype)
    grads = [torch.randn_like(z), torch.randn_like(kl)]
    actual = torch.autograd.grad((z, kl), (mu, logvar), grads)
    expected = torch.autograd.grad((z64, kl64), (mu64, logvar64), [g.double() for g in grads])
    for ours, theirs in zip(actual, expected, strict=True):
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours.double() / scale, theirs / scale, rtol=0, atol=TOLERANCES[dtype], equal_nan=True
        )


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS[:3])
@pytest.mark.parametrize(("beta", "free_bits"), [(1.0, 0.0), (0.3, 0.4)])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_elbo(dtype, beta, free_bits, reduction, reconstruction, capability):
    mu, logvar = latents(6, 131, dtype=dtype)
    recon = torch.rand(6, 333).mul(0.9).add(0.05).to(dtype).requires_grad_()
    target = torch.rand(6, 333).to(dtype)
    options = {"reconstruction": reconstruction, "beta": beta, "free_bits": free_bits, "reduction": reduction}
    tensors = (recon, mu, logvar)
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    loss = elbo_loss(recon, target, mu, logvar, **options)
    stock = {"mse": F.mse_loss, "bce": F.binary_cross_entropy, "bce_with_logits": F.binary_cross_entropy_with_logits}
    errors = stock[reconstruction](doubles[0], target.double(), reduction="none")
    kl = -0.5 * (1 + doubles[2] - doubles[1].square() - doubles[2].exp())
    if free_bits:
        kl = kl.clamp(min=free_bits)

    def reduced(terms):
        return terms.mean() if reduction == "mean" else terms.sum() / (6 if reduction == "batchmean" else 1)

    expected = reduced(errors) + beta * reduced(kl)
    assert_near(loss, expected, dtype)
    for ours, theirs in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, doubles), strict=True):
        scale = theirs.abs().max()
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=2 * TOLERANCES[dtype])


def test_extreme_variances_are_those_of_stock(capability):
    logvar = torch.tensor([-200.0, -100, -88, -1e-4, 0, 1e-4, 80, 88, 89, 200, math.inf, -math.inf, math.nan])
    mu = torch.linspace(-3, 3, len(logvar))
    torch.manual_seed(3)
    z, kl = reparameterize_kl(mu, logvar, reduction="none")
    noise = noise_of(3, mu.shape).float()
    torch.testing.assert_close(z, mu + noise * (0.5 * logvar).exp(), equal_nan=True, rtol=2e-5, atol=1e-6)
    stock = -0.5 * (1 + logvar - mu.square() - logvar.exp())
    torch.testing.assert_close(kl, stock, equal_nan=True, rtol=2e-5, atol=1e-6)


def test_gradients_of_a_kl_that_is_nan_are_those_of_stock(capability):
    mu = torch.tensor([math.nan, math.inf, 2.0, 1, 1, 0.1, math.nan, 3], requires_grad=True)
    logvar = torch.tensor([0.0, 0, math.inf, math.nan, -math.inf, 0, math.inf, 1], requires_grad=True)
    recon = torch.zeros(1)
    for free_bits in (0.0, 0.25):
        loss = elbo_loss(recon, recon, mu, logvar, free_bits=free_bits)
        stock = ops.elbo_loss_reference(recon, recon, mu, logvar, "mse", 1.0, free_bits, "sum")
        expected = torch.autograd.grad(stock, (mu, logvar))
        torch.testing.assert_close(torch.autograd.grad(loss, (mu, logvar)), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["recon", "target"])
@pytest.mark.parametrize("outside", [-0.1, 1.1, math.nan], ids=str)
def test_cross_entropy_of_what_is_no_probability(name, outside, capability):
    tensors = {"recon": torch.full((5, 7), 0.5), "target": torch.full((5, 7), 0.5)}
    tensors[name][4, 6] = outside
    mu = torch.zeros(5, 2)
    with pytest.raises(RuntimeError, match=f"{name}: expected values between 0 and 1 for reconstruction 'bce'"):
        elbo_loss(**tensors, mu=mu, logvar=mu, reconstruction="bce")


@pytest.mark.parametrize("aligned", [True, False])
def test_tensors_may_begin_anywhere(aligned, capability):
    mu, logvar = (torch.randn(4107)[0 if aligned else 1 :] for _ in range(2))
    state = torch.tensor([3, 4])
    copies = [t.clone() for t in (mu, logvar)]
    for reduction in ("none", "sum"):
        actual, expected = (ops.reparameterize_forward(*t, state, reduction) for t in ((mu, logvar), copies))
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("reduction", [None, *REDUCTIONS])
@pytest.mark.parametrize("mask", [[True, True], [True, False], [False, True]], ids=str)
def test_backward_without_a_kernel_is_the_same(mask, reduction):
    mu, logvar, grad_z = (torch.randn(3, 5) for _ in range(3))
    grad_kl = None if reduction is None else torch.randn(3, 5) if reduction == "none" else torch.tensor(0.7)
    state = torch.tensor([3, 4])
    for gradients in ((grad_z, grad_kl), (None, grad_kl), (grad_z, None)):
        arguments = (*gradients, mu, logvar)
        doubles = [t if t is None else t.double() for t in arguments]
        expected = ops.reparameterize_backward(*arguments, state, reduction, mask)
        actual = ops.reparameterize_backward(*doubles, state, reduction, mask)  # float64 has no kernel
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs.double(), rtol=2e-6, atol=2e-6)


def test_gradgradcheck():
    mu, logvar = (t.double().detach().requires_grad_() for t in latents(3, 4))

    def sample(mu, logvar):
        torch.manual_seed(1)
        return reparameterize_kl(mu, logvar)

    assert torch.autograd.gradcheck(sample, (mu, logvar))
    assert torch.autograd.gradgradcheck(sample, (mu, logvar))
    recon = torch.rand(3, 5, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    for reconstruction in RECONSTRUCTIONS:

        def loss(recon, mu, logvar, reconstruction=reconstruction):
            return elbo_loss(recon, torch.full_like(recon, 0.3), mu, logvar, reconstruction=reconstruction)

        assert torch.autograd.gradcheck(loss, (recon, mu, logvar))
        assert torch.autograd.gradgradcheck(loss, (recon, mu, logvar))


def test_opcheck():
    mu, logvar = latents(3, 4)
    state = ops.philox_state(mu)
    checks = {
        ops.standard_normal.default: ([3, 4], state),
        ops.reparameterize_forward.default: (mu.detach(), logvar.detach(), state, "sum"),
        ops.reparameterize_backward.default: (
            *(mu.detach(), None, mu.detach(), logvar.detach()),
            *(state, None, [True, True]),
        ),
        ops.elbo_loss.default: (mu, mu.detach(), mu, logvar),
    }
    for operator, arguments in checks.items():
        torch.library.opcheck(operator, arguments)


def drawn(state):
    """Noise, z, KL, and gradients from a state."""
    mu, logvar = (t.detach() for t in latents(3, 70001))
    noise = ops.standard_normal([3, 70001], state)
    sample = ops.reparameterize_forward(mu, logvar, state, "none")
    return noise, *sample, *ops.reparameterize_backward(mu, None, mu, logvar, state, None, [True, True])


def test_bits_do_not_depend_on_threads(capability, intraop_threads):
    results = []
    for threads in (1, 2):
        intraop_threads(threads)
        results.append(drawn(torch.tensor([9, 8])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bits_do_not_depend_on_the_instruction_set():
    before = fastvision.backends.cpu.capability
    results = {}
    try:
        for name in fastvision.backends.cpu.available_capabilities():
            fastvision.backends.cpu.capability = name
            results[name] = drawn(torch.tensor([9, 8]))
    finally:
        fastvision.backends.cpu.capability = before
    first = results["default"]
    assert all(torch.equal(result[0], first[0]) for result in results.values())
    with_fma, *others = [result for name, result in results.items() if name != "default"]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other, with_fma, strict=True))


def test_kl_of_a_large_input(capability):
    fastest = capability == fastvision.backends.cpu.available_capabilities()[0]
    mu, logvar = (torch.randn(10_000_000 if fastest else 1_000_000) for _ in range(2))
    kl = ops.reparameterize_forward(mu, logvar, ops.philox_state(mu), "sum")[1]
    exact_kl = -0.5 * (1 + logvar.double() - mu.double().square() - logvar.double().exp()).sum()
    assert abs(kl.double() / exact_kl - 1) < 1e-7


@pytest.mark.slow
def test_kl_of_a_hundred_million_elements():
    """It takes 1.2 GB."""
    generator = torch.Generator().manual_seed(3)
    mu, logvar = (torch.empty(100_000_000).normal_(generator=generator) for _ in range(2))
    exact_kl = 0.0
    for m, v in zip(mu.split(10_000_000), logvar.split(10_000_000), strict=True):
        v = v.double()
        exact_kl += 0.5 * (v.expm1().sub_(v).sum() + m.double().square_().sum())
    no_recon = torch.empty(0)
    for kl in (elbo_loss(no_recon, no_recon, mu, logvar), reparameterize_kl(mu, logvar, reduction="sum")[1]):
        assert abs(kl.double() / exact_kl - 1) < 1e-7


@pytest.mark.slow
def test_compiled_graphs_draw_new_noise():
    mu, logvar = (t.detach() for t in latents(8, 40))
    compiled = torch.compile(lambda mu, logvar: reparameterize_kl(mu, logvar), fullgraph=True)
    first, second = compiled(mu, logvar)[0], compiled(mu, logvar)[0]
    assert not torch.equal(first, second)


def test_bad_arguments():
    mu, logvar = latents(2, 3)
    with pytest.raises(ValueError, match="reduction: expected 'sum', 'mean', 'batchmean' or 'none', got 'max'"):
        reparameterize_kl(mu, logvar, reduction="max")
    with pytest.raises(ValueError, match="rng: expected 'philox' or 'torch', got 'numpy'"):
        reparameterize(mu, logvar, rng="numpy")
    with pytest.raises(ValueError, match="reduction: expected 'sum', 'mean' or 'batchmean', got 'none'"):
        elbo_loss(mu, mu, mu, logvar, reduction="none")
    with pytest.raises(ValueError, match="reconstruction: expected 'mse', 'bce' or 'bce_with_logits', got 'l1'"):
        elbo_loss(mu, mu, mu, logvar, reconstruction="l1")
    with pytest.raises(ValueError, match="free_bits: expected a number of at least 0, got -1"):
        elbo_loss(mu, mu, mu, logvar, free_bits=-1)
    with pytest.raises(RuntimeError, match=r"must match the size|broadcast"):
        reparameterize(mu, torch.zeros(4, 3))
