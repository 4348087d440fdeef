"""torch.vmap, alone and with torch.func.grad, over operators whose arguments are lists or whose results are random."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fastvision.convert import convert
from fastvision.ops import elbo_loss, reparameterize, reparameterize_kl

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_sequences(kind):
    torch.manual_seed(0)
    stock = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    ours = convert(stock)
    parameters = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in ours.named_parameters()}
    inputs = torch.randn(3, 5, 2, 4)

    def output(module, *given):
        return torch.func.functional_call(module, *given)[0]

    expected = torch.stack([stock(input)[0] for input in inputs])
    assert_close(torch.vmap(lambda input: ours(input)[0])(inputs), expected)
    assert_close(torch.vmap(lambda input: ours(input)[0], 1)(inputs.transpose(0, 1)), expected)
    ensemble = torch.vmap(lambda values: output(ours, values, (inputs[0],)))(parameters)
    assert_close(ensemble[1], output(stock, {name: 2 * p for name, p in stock.named_parameters()}, (inputs[0],)))

    gradient = torch.func.grad(lambda input: torch.vmap(lambda i: ours(i)[0])(input).square().sum())(inputs)
    leaf = inputs.clone().requires_grad_()
    torch.stack([stock(input)[0] for input in leaf]).square().sum().backward()
    assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-5)


def test_dropout_in_sequences_asks_for_randomness():
    ours, inputs = convert(nn.GRU(4, 6, num_layers=2, dropout=0.5)), torch.randn(3, 5, 2, 4)
    with pytest.raises(RuntimeError, match=r"gru: torch.vmap: expected randomness='different', got 'error'"):
        torch.vmap(lambda input: ours(input)[0])(inputs)
    first, second, _ = torch.vmap(lambda input: ours(input)[0], randomness="different")(
        inputs[:1].expand(3, -1, -1, -1)
    )
    assert not torch.equal(first, second)


def test_samples():
    mu, logvar = torch.zeros(3, 5), torch.full((5,), 0.5)
    sigma = (0.5 * logvar).exp()
    for randomness in ("different", "same"):
        z, kl = torch.vmap(reparameterize_kl, (0, None), randomness=randomness)(mu + 1, logvar)
        assert torch.equal(z[0], z[1]) == (randomness == "same")
        assert_close(kl, (-0.5 * (1 + logvar - 1 - logvar.exp()).sum()).expand(3))
        assert ((z - 1) / sigma).abs().max() < 5
        alone = torch.vmap(reparameterize, (0, None), randomness=randomness)(mu, logvar)
        assert torch.equal(alone[0], alone[1]) == (randomness == "same")
    with pytest.raises(RuntimeError, match=r"reparameterize_kl: torch.vmap: expected randomness='different' or 'same'"):
        torch.vmap(reparameterize_kl, (0, None))(mu, logvar)


def test_gradients_of_single_losses():
    recon, target, mu, logvar = (torch.randn(3, 5) for _ in range(4))
    gradients = torch.vmap(torch.func.grad(elbo_loss, argnums=(0, 2, 3)))(recon, target, mu, logvar)
    leaves = [t.requires_grad_() for t in (recon, mu, logvar)]
    assert_close(gradients, torch.autograd.grad(elbo_loss(recon, target, mu, logvar), leaves))
