"""The vae operators among torch's other machinery: strides, broadcasts, modes, opcheck, compile, second derivatives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from fastvision.ops import elbo_loss, reparameterize, reparameterize_kl
from fastvision.ops.vae import elbo_loss_reference, reparameterize_kl_reference

OPS = torch.ops.fastvision
pytestmark = pytest.mark.usefixtures("one_thread")
REDUCTIONS = ("sum", "mean", "batchmean", "none")
OPTIONS = ("reconstruction", "beta", "free_bits", "reduction")
RECONSTRUCTIONS = ("mse", "bce", "bce_with_logits")


def noise_of(seed: int, shape, dtype=torch.float32) -> torch.Tensor:
    """What the next call after torch.manual_seed(seed) draws."""
    torch.manual_seed(seed)
    return OPS.standard_normal(shape, OPS.philox_state(torch.empty(0)), dtype=dtype)


def latents(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(2)]


def losses(dtype=torch.float32):
    """Recon and target in (0, 1), mu and logvar, small."""
    generator = torch.Generator().manual_seed(2)
    recon, target = (torch.rand(3, 5, generator=generator, dtype=dtype).mul(0.8).add(0.1) for _ in range(2))
    return [recon.requires_grad_(), target, *latents(3, 4, dtype=dtype)]


@st.composite
def strided(draw, shape):
    """A tensor that broadcasts to the shape, of any strides."""
    own = [size if draw(st.booleans()) else 1 for size in shape]
    own = own[draw(st.integers(0, len(own))) :] if draw(st.booleans()) else own
    order = draw(st.permutations(range(len(own))))
    steps = [draw(st.integers(1, 2)) for _ in own]
    base = torch.randn(
        [own[d] * steps[d] for d in order], generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))
    )
    view = base.permute([order.index(d) for d in range(len(own))])
    for d, step in enumerate(steps):
        view = view.unflatten(d, (own[d], step)).select(d + 1, 0) if own[d] else view
    return view


@st.composite
def strided_latents(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    mu, logvar = draw(strided(shape)), draw(strided(shape))
    names = [r for r in REDUCTIONS if r != "batchmean" or torch.broadcast_shapes(mu.shape, logvar.shape)]
    return mu.requires_grad_(), logvar.requires_grad_(), draw(st.sampled_from(names))


@given(strided_latents())
def test_any_strides_and_broadcasts(problem):
    mu, logvar, reduction = problem
    torch.manual_seed(4)
    actual = reparameterize_kl(mu, logvar, reduction=reduction)
    noise = noise_of(4, torch.broadcast_shapes(mu.shape, logvar.shape))
    expected = reparameterize_kl_reference(mu, logvar, noise, reduction=reduction)
    grads = [torch.randn_like(t) for t in expected]
    assert_close(actual, expected, equal_nan=True)
    for a, e in zip(
        torch.autograd.grad(actual, (mu, logvar), grads),
        torch.autograd.grad(expected, (mu, logvar), grads),
        strict=True,
    ):
        assert_close(a, e, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_results_without_gradients(mode):
    mu, logvar = latents(3, 4)
    torch.manual_seed(4)
    with mode():
        z, kl = reparameterize_kl(mu, logvar)
        loss = elbo_loss(*losses())
    torch.manual_seed(4)
    assert not any(t.requires_grad for t in (z, kl, loss))
    assert_close((z, kl), reparameterize_kl(mu, logvar), rtol=0, atol=0)
    assert_close(loss, elbo_loss(*losses()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_touches_losses_only(dtype):
    mu, logvar = (t.to(dtype) for t in latents(3, 4))
    with torch.autocast("cpu", dtype=dtype):
        assert reparameterize(mu, logvar).dtype == dtype
        assert [t.dtype for t in reparameterize_kl(mu, logvar)] == [dtype] * 2
        assert elbo_loss(*(t.to(dtype) for t in losses())).dtype == torch.float32


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 4), (4,)], ids=["equal", "broadcast"])
def test_second_derivatives_of_samples(reduction, shape):
    mu, logvar = latents(3, 4, dtype=torch.float64)[0], latents(*shape, dtype=torch.float64)[1]

    def sample(mu, logvar):
        torch.manual_seed(1)
        return reparameterize_kl(mu, logvar, reduction=reduction)

    assert torch.autograd.gradcheck(sample, (mu, logvar))
    assert torch.autograd.gradgradcheck(sample, (mu, logvar))


# float64 has no kernels: the derivative of what the fp32 kernels' backward is.
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_second_derivatives_of_kernels(reconstruction):
    recon, target, mu, logvar = losses()

    def second(function, sample):
        z, kl = sample(mu, logvar)
        loss = function(recon, target, mu, logvar, reconstruction=reconstruction, free_bits=0.2, reduction="mean")
        first = torch.autograd.grad(loss + z.square().sum() + kl, (recon, mu, logvar), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (recon, mu, logvar))

    torch.manual_seed(4)
    actual = second(elbo_loss, reparameterize_kl)
    noise = noise_of(4, mu.shape)
    expected = second(elbo_loss_reference, lambda m, v: reparameterize_kl_reference(m, v, noise))
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_opcheck():
    recon, target, mu, logvar = (t.detach() for t in losses())
    training = [t.clone().requires_grad_() for t in (recon, mu, logvar)]
    state = OPS.philox_state(mu)
    torch.library.opcheck(OPS.philox_state.default, (mu,), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(OPS.standard_normal.default, ([3, 4], state))
    for reduction in ("batchmean", "none", None):
        torch.library.opcheck(OPS.reparameterize_forward.default, (*training[1:], state, reduction))
    for grad_z, grad_kl in ((mu, mu.sum()), (mu, None), (None, mu.sum())):
        arguments = (grad_z, grad_kl, mu, logvar, state, "sum", [True, grad_z is None])
        torch.library.opcheck(OPS.reparameterize_backward.default, arguments)
    options = ("bce", 0.5, 0.1, "mean")
    torch.library.opcheck(OPS.elbo_loss_forward.default, (training[0], target, *training[1:], *options))
    for mask in ([True, True, True], [False, True, False]):
        arguments = (mu.sum(), recon, target, mu, logvar, *options, mask)
        torch.library.opcheck(OPS.elbo_loss_backward.default, arguments)


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_backward_of_the_loss_without_a_kernel(reconstruction, reduction):
    recon, target, mu, logvar = losses(torch.float64)
    options = (reconstruction, 0.5, 0.2, reduction)
    loss = elbo_loss_reference(recon, target, mu, logvar, **dict(zip(OPTIONS, options, strict=True)))
    expected = torch.autograd.grad(loss, (recon, mu, logvar), torch.tensor(3.0, dtype=torch.float64))
    arguments = (torch.tensor(3.0, dtype=torch.float64), recon.detach(), target, mu.detach(), logvar.detach(), *options)
    assert_close(OPS.elbo_loss_backward(*arguments, [True, True, True]), expected)
    assert_close(OPS.elbo_loss_backward(*arguments, [False, True, False])[1], expected[1])
    assert [t.numel() for t in OPS.elbo_loss_backward(*arguments, [True, False, False])] == [15, 0, 0]


@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_training_compiles_to_one_graph(rng):
    torch.compiler.reset()

    def step(recon, target, mu, logvar):
        z, kl = reparameterize_kl(mu, logvar, rng=rng)
        return elbo_loss(recon, target, mu, logvar, reconstruction="bce") + z.sum() + kl

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    recon, target, mu, logvar = losses()
    results = []
    for function in (step, compiled):
        torch.manual_seed(7)
        loss = function(recon, target, mu, logvar)
        results.append((loss, *torch.autograd.grad(loss, (recon, mu, logvar))))
    assert_close(results[1], results[0])


def test_noise_of_torch_compiles_with_mixed_dtypes():
    torch.compiler.reset()
    compiled = torch.compile(lambda m, v: reparameterize(m, v, rng="torch"), fullgraph=True, backend="aot_eager")
    mu, logvar = latents(3, 4)
    torch.manual_seed(4)
    actual = compiled(mu, logvar.double())
    torch.manual_seed(4)
    assert_close(actual, reparameterize(mu, logvar.double(), rng="torch"))
    assert actual.dtype == torch.float64


def test_bad_arguments():
    recon, target, mu, logvar = (t.detach() for t in losses())
    with pytest.raises(ValueError, match="mu: expected at least one dimension, the batch, for reduction 'batchmean'"):
        reparameterize_kl(torch.tensor(1.0), torch.tensor(1.0), reduction="batchmean")
    with pytest.raises(ValueError, match=r"recon and target: expected equal shapes for reconstruction 'bce', got"):
        elbo_loss(recon, target[:1], mu, logvar, reconstruction="bce")
    with pytest.raises(ValueError, match="free_bits: expected a number of at least 0, got nan"):
        elbo_loss(recon, target, mu, logvar, free_bits=float("nan"))
    with pytest.raises(RuntimeError, match=r"state: expected int64 of shape \[2\] on cpu, got Float of shape \[3\]"):
        OPS.reparameterize_forward(mu, logvar, torch.zeros(3), None)
    with pytest.raises(RuntimeError, match=r"grad_z: expected shape \[3, 4\]"):
        OPS.reparameterize_backward(mu[:2], None, mu, logvar, OPS.philox_state(mu), None, [True, True])
