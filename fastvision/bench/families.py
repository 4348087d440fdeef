"""The families of operators that are measured: their cases, and who runs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fastvision.bench.augment_cases import AUGMENT_CASES, AugmentCase
from fastvision.bench.augment_peers import AUGMENT_PEERS
from fastvision.bench.augment_task import AugmentTask
from fastvision.bench.conv_cases import CONV_CASES, ConvCase, Mode
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.linear_cases import LINEAR_CASES, LinearCase
from fastvision.bench.linear_task import LinearTask
from fastvision.bench.measuring import TaskMakers
from fastvision.bench.model_cases import MODEL_CASES, ModelCase
from fastvision.bench.model_task import ModelTask
from fastvision.bench.module_peers import LINEAR_PEERS, MODULE_PEERS, POOL_PEERS, RNN_PEERS, VAE_PEERS
from fastvision.bench.peers import Peer, Task
from fastvision.bench.pool_cases import POOL_CASES, PoolCase
from fastvision.bench.pool_task import PoolTask
from fastvision.bench.rnn_cases import RNN_CASES, RnnCase
from fastvision.bench.rnn_task import RnnTask
from fastvision.bench.vae_cases import VAE_CASES, VaeCase
from fastvision.bench.vae_task import VaeTask

Case = ConvCase | LinearCase | PoolCase | RnnCase | VaeCase | AugmentCase | ModelCase


@dataclass(frozen=True)
class Family:
    """What `fastvision bench NAME` measures.

    Attributes:
        name: of the command.
        cases: all of them, each defined here once; those marked `quick` stand for all in `bench all --quick`.
        make: a task of a case and a mode; takes dtype and threads.
        peers: all that can run its tasks.
    """

    name: str
    cases: Sequence[Case]
    make: Callable[..., Task]
    peers: Sequence[Peer]

    def tasks(
        self, cases: Sequence[Case], modes: Sequence[Mode], *, dtype: torch.dtype = torch.float32, threads: int = 1
    ) -> TaskMakers:
        """Those of the cases, by a name that says case and mode: one mode after the other."""
        return {
            f"{case.name}, {mode}": partial(self.make, case, mode, dtype=dtype, threads=threads)
            for mode in modes
            for case in cases
            if mode in case.modes
        }


FAMILIES = {
    family.name: family
    for family in (
        Family("conv", CONV_CASES, ConvTask.random, MODULE_PEERS),
        Family("linear", LINEAR_CASES, LinearTask.random, LINEAR_PEERS),
        Family("pool", POOL_CASES, PoolTask.random, POOL_PEERS),
        Family("rnn", RNN_CASES, RnnTask.random, RNN_PEERS),
        Family("vae", VAE_CASES, VaeTask.random, VAE_PEERS),
        Family("augment", AUGMENT_CASES, AugmentTask.random, AUGMENT_PEERS),
        Family("models", MODEL_CASES, ModelTask.random, MODULE_PEERS),
    )
}
