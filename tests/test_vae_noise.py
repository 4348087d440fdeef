"""The noise of fastvision.ops.reparameterize: its bits, where its seeds come from, and its distribution."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvision.ops import reparameterize, reparameterize_kl

ops = torch.ops.fastvision
SAMPLES = 10_000_000
MASK = 0xFFFFFFFF
BITS = "5b0dad103b60ad15"  # the beginning of a SHA-256
STATES = [(0, 0), (1, 0), (0, 1), (-1, -1), (0x0123456789ABCDEF, -0x0123456789ABCDEF), (-(2**63), 2**63 - 1)]


def philox(counter, key) -> list[np.ndarray]:
    """Philox4x32-10 of words in the lower halves of uint64."""
    c = [np.asarray(word, dtype=np.uint64) for word in counter]
    low, high = key
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(low),
            second & np.uint64(MASK),
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(high),
            first & np.uint64(MASK),
        ]
        low, high = (low + 0x9E3779B9) & MASK, (high + 0xBB67AE85) & MASK
    return c


def expected_noise(state: tuple[int, int], count: int) -> np.ndarray:
    """The stream's first numbers in float64, from the uniform numbers as float32 holds them."""
    (seed, seed_high), (offset, offset_high) = ((word & MASK, word >> 32 & MASK) for word in state)
    quad = np.arange((count + 3) // 4, dtype=np.uint64)
    words = philox((quad, quad >> np.uint64(32), offset, offset_high), (seed, seed_high))
    noise = np.empty((len(quad), 4))
    for i in (0, 2):
        radius_word, angle_word = words[i], words[i + 1]
        middle = (radius_word >> np.uint64(1)).astype(np.float32).astype(np.float64) * 2.0**-31 + 2.0**-32
        radius = np.sqrt(-2 * np.log(middle.astype(np.float32).astype(np.float64)))
        # The angle as a signed number of 31 bits in units of 2^-30 right angles; the highest bit turns by two of them.
        angle = (angle_word << np.uint64(33)).view(np.int64).astype(np.float64) * (math.pi / 2 * 2.0**-63)
        radius = np.where(angle_word >> np.uint64(31), -radius, radius)
        noise[:, i], noise[:, i + 1] = radius * np.cos(angle), radius * np.sin(angle)
    return noise.reshape(-1)[:count]


def draw(*size: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The noise of one call."""
    zeros = torch.zeros(size, dtype=dtype)
    return reparameterize(zeros, zeros, generator=generator)


def stream(state: tuple[int, int], count: int) -> Tensor:
    return ops.standard_normal([count], torch.tensor(state))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_of_this_file_gives_the_published_answers(counter, key, answer):
    """kat_vectors of Random123."""
    counter, key, answer = ([int(word, 16) for word in words.split()] for words in (counter, key, answer))
    assert [int(word) for word in philox(counter, key)] == answer


@pytest.mark.parametrize("state", STATES, ids=str)
def test_noise_is_box_and_mullers_of_philox(state, capability):
    expected = expected_noise(state, 4099)
    np.testing.assert_allclose(stream(state, 4099).double().numpy(), expected, rtol=0, atol=1e-6)


def test_precision():
    """Where radius or angle are small, too: an error is one of float32's rounding."""
    state = (20, 26)
    actual, expected = stream(state, 2**20).double().numpy(), expected_noise(state, 2**20)
    radius = np.repeat(np.hypot(expected[::2], expected[1::2]), 2)
    assert radius.min() < 0.01
    assert radius.max() > 4.5
    assert (np.abs(actual - expected) / radius).max() < 3e-7
    assert (np.abs(actual - expected) / np.abs(expected))[1::2].max() < 4e-7  # a sine keeps its relative precision


def test_bits_are_the_same_everywhere(capability, intraop_threads):
    """An element depends on the state and its index: not on instruction set, machine, threads, or the size."""
    longest = stream((5, 7), 300007)
    assert hashlib.sha256(longest.numpy().tobytes()).hexdigest()[:16] == BITS
    called = draw(300007, generator=seeded(4))
    for threads in (1, 2):
        intraop_threads(threads)
        for count in (0, 1, 2, 3, 4, 5, 31, 63, 64, 65, 127, 1021, 4095, 4099, 8193, 65537, 300007):
            assert torch.equal(stream((5, 7), count), longest[:count])
            assert torch.equal(draw(count, generator=seeded(4)), called[:count])
    seed = ops.philox_state(called, generator=seeded(4))
    assert torch.equal(ops.standard_normal([300007], seed), called)


def test_the_index_is_the_logical_one(capability):
    zeros = torch.zeros(2, 3, 5, 7)
    expected = draw(zeros.numel(), generator=seeded(6)).view_as(zeros)
    strided, narrow = torch.zeros(7, 5, 3, 2).permute(3, 2, 1, 0), torch.zeros(3, 1, 7)
    last = zeros.to(memory_format=torch.channels_last)
    for mu, logvar in ((zeros, zeros), (last, last), (strided, strided), (zeros, narrow), (narrow, last)):
        assert torch.equal(reparameterize(mu, logvar, generator=seeded(6)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_all_dtypes_have_the_same_noise(dtype, capability):
    actual = draw(4099, generator=seeded(8), dtype=dtype)
    assert actual.dtype == dtype
    assert torch.equal(actual, draw(4099, generator=seeded(8)).to(dtype))


def test_seeds_and_states_repeat_the_noise():
    torch.manual_seed(1)
    first, second = draw(100), draw(100)
    assert not (first == second).any()
    torch.manual_seed(1)
    assert torch.equal(draw(100), first)
    assert torch.equal(reparameterize_kl(torch.zeros(100), torch.zeros(100))[0], second)
    generator = seeded(1)
    draw(100, generator=generator)
    state = generator.get_state()
    assert torch.equal(draw(100, generator=generator), second)
    generator.set_state(state)
    assert torch.equal(draw(100, generator=generator), second)


def test_a_generator_given_is_the_only_one_used():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    generator = seeded(2)
    given = draw(100, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(100), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_call_draws_once(dtype, capability):
    """Two 64-bit numbers, whatever the size, and none for backward."""
    expected = seeded(5)
    torch.empty(2, dtype=torch.long).random_(-(2**63), None, generator=expected)
    for count in (0, 1, 2, 1000, 100001):
        zeros = torch.zeros(count, dtype=dtype, requires_grad=True)
        torch.manual_seed(5)
        reparameterize(zeros, zeros).sum().backward()
        assert torch.equal(torch.get_rng_state(), expected.get_state())


@pytest.mark.parametrize("own", [False, True], ids=["default generator", "shared generator"])
def test_threads_never_share_numbers(own):
    """All calls together have the noise that as many calls of one thread have, in some order."""
    workers, calls = 8, 500
    generator = seeded(7) if own else None
    barrier = Barrier(workers)

    def work(_: int) -> list[tuple[float, ...]]:
        barrier.wait()
        return [tuple(draw(6, generator=generator).tolist()) for _ in range(calls)]

    torch.manual_seed(7)
    with ThreadPoolExecutor(workers) as pool:
        rows = [row for rows in pool.map(work, range(workers)) for row in rows]
    assert len(set(rows)) == workers * calls
    one = seeded(7)
    assert sorted(rows) == sorted(tuple(draw(6, generator=one).tolist()) for _ in range(workers * calls))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_torchs_noise_is_that_of_stock(dtype):
    torch.manual_seed(0)
    mu, logvar = torch.randn(2, 3, 101).to(dtype)
    for generator in (None, seeded(3)):
        torch.manual_seed(3)
        std = torch.exp(0.5 * logvar)
        stock, after = mu + torch.randn_like(std) * std, torch.get_rng_state()
        torch.manual_seed(3)
        assert torch.equal(reparameterize(mu, logvar, generator=generator, rng="torch"), stock)
        assert torch.equal((generator or torch.default_generator).get_state(), after)
    torch.manual_seed(3)
    assert torch.equal(reparameterize_kl(mu, logvar, rng="torch")[0], stock)


@pytest.fixture(scope="module")
def sample() -> Tensor:
    """The noise of two calls, one after the other."""
    generator = seeded(2013)
    return torch.stack([draw(SAMPLES, generator=generator) for _ in range(2)]).double()


@pytest.mark.slow
def test_distribution(sample):
    """The test of Kolmogorov and Smirnov, by its asymptotic law."""
    for x in sample:
        cdf = torch.special.ndtr(x.sort().values)
        steps = torch.arange(SAMPLES + 1, dtype=torch.float64) / SAMPLES
        distance = max((steps[1:] - cdf).max().item(), (cdf - steps[:-1]).max().item())
        t = distance**2 * SAMPLES
        assert 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * t) for k in range(1, 101)) > 0.001


@pytest.mark.slow
def test_moments(sample):
    """Mean, variance, skew and kurtosis within 4 of their standard errors."""
    for x in sample:
        centred = x - x.mean()
        variance = centred.square().mean()
        skew, kurtosis = ((centred**k).mean() / variance ** (k / 2) for k in (3, 4))
        for value, expected, spread in ((x.mean(), 0, 1), (variance, 1, 2), (skew, 0, 6), (kurtosis, 3, 24)):
            assert abs(value.item() - expected) < 4 * math.sqrt(spread / SAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("bound", [4, 5, 6])
def test_tails(bound, sample):
    """The count on either side, and on both, is as likely by Poisson's law as 4 standard deviations are."""
    likely, tail = math.erfc(4 / math.sqrt(2)) / 2, sample.numel() * math.erfc(bound / math.sqrt(2)) / 2
    for values, mean in ((sample, tail), (-sample, tail), (sample.abs(), 2 * tail)):
        count = (values > bound).sum().item()
        below = [math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1)]
        assert math.fsum(below) > likely
        assert 1 - math.fsum(below[:-1]) > likely


@pytest.mark.slow
@pytest.mark.parametrize("what", ["values", "squares"])
def test_correlations(what, sample):
    """Between elements and between calls; squares would show pairs of one radius that is not that of a normal pair."""
    x, y = sample if what == "values" else (sample.square() - 1) / math.sqrt(2)
    correlations = {lag: (x[lag:] * x[:-lag]).mean().item() for lag in (1, 2, 3, 4, 32, 1024)} | {
        "calls": (x * y).mean().item()
    }
    assert all(abs(value) < 4.5 / math.sqrt(SAMPLES) for value in correlations.values()), correlations
