"""Fixtures and settings that all tests share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

import fastvision

# Drawn problems are the same in every run, so that a failure is never a matter of luck.
# --hypothesis-profile=thorough draws new and more ones.
settings.register_profile("default", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=3000, deadline=None)
settings.load_profile("default")


_LONG = ("test_cuda.py", "test_native.py", "test_export.py", "test_session.py", "test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that no worker waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="module", params=fastvision.backends.cpu.available_capabilities())
def capability(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on every instruction set of this machine, and on the emulated CUDA device where it is built."""
    before = fastvision.backends.cpu.capability
    fastvision.backends.cpu.capability = request.param
    yield request.param
    fastvision.backends.cpu.capability = before


@pytest.fixture
def not_emulated(capability: str) -> None:
    """For tests of which operators run, of a family that has no CUDA kernels."""
    if capability == "emulated":
        pytest.skip("the family has no CUDA kernels")


@pytest.fixture(autouse=True)
def widest_capability(request: pytest.FixtureRequest) -> Iterator[None]:
    """What tests that do not ask for `capability` run on, also between those of their file that do."""
    before = fastvision.backends.cpu.capability
    if "capability" not in request.fixturenames:
        fastvision.backends.cpu.capability = fastvision.backends.cpu.available_capabilities()[0]
    yield
    fastvision.backends.cpu.capability = before


@pytest.fixture
def intraop_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(intraop_threads: Callable[[int], None]) -> None:
    """For tests of many small problems, over which several threads only wait for each other."""
    intraop_threads(1)


@pytest.fixture
def no_winograd() -> Iterator[None]:
    """For what only direct kernels promise: sums of integers are exact, a NaN stays where it belongs."""
    fastvision.backends.cpu.allow_winograd = False
    yield
    fastvision.backends.cpu.allow_winograd = True
