"""fastvision.export: models as files, which run in Python and in C++ and compute what the model computes."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.testing import assert_close

import fastvision
from fastvision.convert import convert

EXAMPLE = Path(__file__).parents[1] / "examples" / "cpp"
pytestmark = pytest.mark.usefixtures("one_thread")


class Rows(nn.Module):
    """A sequence model as one writes it."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Autoencoder(nn.Module):
    """A variational one."""

    def __init__(self):
        super().__init__()
        self.encoder, self.sample, self.decoder = nn.Linear(8, 6), fastvision.nn.Reparameterize(), nn.Linear(3, 8)

    def forward(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        recon = self.decoder(self.sample(mu, logvar))
        return recon, fastvision.ops.elbo_loss(recon, x, mu, logvar)


def cnn():
    layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)).eval()


# Of each a model, sizes to export with, which of them are free, and other sizes.
MODELS = {
    "CNN": (cnn, (2, 1, 12, 12), (0,), ((5, 1, 12, 12), (1, 1, 12, 12))),
    "LSTM": (lambda: Rows(nn.LSTM).eval(), (2, 3, 4), (0, 1), ((5, 7, 4), (1, 1, 4))),
    "GRU": (lambda: Rows(nn.GRU).eval(), (2, 3, 4), (0, 1), ((5, 7, 4), (1, 1, 4))),
    "VAE": (Autoencoder, (2, 8), (0,), ((5, 8), (1, 8))),
}


@pytest.mark.parametrize("name", MODELS)
def test_free_sizes_of_converted_models(name):
    build, sizes, free, others = MODELS[name]
    torch.manual_seed(0)
    model = build()
    dynamic_shapes = ({dimension: Dim(f"size{dimension}") for dimension in free},)
    program = torch.export.export(convert(model), (torch.randn(sizes),), dynamic_shapes=dynamic_shapes)
    assert any(str(node.target).startswith("fastvision.") for node in program.graph.nodes)
    for other in (sizes, *others):
        input = torch.randn(other)
        results = []
        for function in (program.module(), model):
            torch.manual_seed(7)
            results.append(function(input))
        assert_close(*results)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of stock's checks of shapes
@pytest.mark.parametrize("name", ["CNN", "LSTM", "GRU"])
def test_traced_and_frozen_by_torchscript(name):
    build, sizes, _, _ = MODELS[name]
    torch.manual_seed(0)
    model, input = build(), torch.randn(sizes)
    traced = torch.jit.trace(convert(model), input)
    for function in (traced, torch.jit.freeze(traced)):
        assert "fastvision::" not in str(function.inlined_graph)  # stock's layers: it loads without fastvision
        assert_close(function(input), model(input))


SCRIPTED = {
    "Sequential": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()),
    "LSTM inside": lambda: Rows(nn.LSTM),
    "GRU": lambda: nn.GRU(4, 6),
    "LSTMCell": lambda: nn.LSTMCell(4, 6),
    "GRUCell": lambda: nn.GRUCell(4, 6),
    "ConvReLU2d": lambda: fastvision.nn.ConvReLU2d(1, 8, 3),
}


@pytest.mark.parametrize("build", SCRIPTED.values(), ids=SCRIPTED)
def test_torchscript_refuses_code_with_a_sentence(build):
    model = convert(build())
    modules = list(model.modules())
    with pytest.raises(RuntimeError, match=r"torch.jit.script: expected a module of stock layers, got fast"):
        torch.jit.script(model)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    if not isinstance(model, fastvision.nn.ConvReLU2d):
        torch.jit.script(fastvision.revert(copy.deepcopy(model)))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The example's package, compiled once, and what the example prints."""
    path = tmp_path_factory.mktemp("export") / "film.pt2"
    return path, run([sys.executable, "film.py", str(path)], cwd=EXAMPLE)


def run(command, **options):
    environment = os.environ | {"PYTHONPATH": str(Path(fastvision.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_package_computes_what_the_model_computes(package, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from film import FilmEncoder

    torch.manual_seed(1)
    model, loaded = FilmEncoder().eval(), fastvision.load(package[0])
    for sizes in ((2, 3), (1, 1), (4, 9)):
        films = torch.randn(*sizes, 1, 16, 16)
        results = []
        for function in (loaded, model):
            torch.manual_seed(7)
            results.append([result.detach() for result in function(films)])
        assert_close(*results)


@pytest.mark.slow
def test_program_without_python_prints_the_same(package, tmp_path):
    path, printed = package
    run(["make", f"PYTHON={sys.executable}", f"OUT={tmp_path}"], cwd=EXAMPLE)
    assert "libpython" not in (libraries := run(["ldd", tmp_path / "film"]))
    assert "libtorch_python" not in libraries
    assert run([tmp_path / "film", path]) == printed
    assert len(printed.split()) == 3 * 5 * 4 + 1


@pytest.mark.slow
def test_package_needs_only_the_library(package):
    code = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]);"
        "model = torch._inductor.aoti_load_package(sys.argv[2]);"
        "print(*[result.shape for result in model(torch.ones(2, 2, 1, 16, 16))], 'fastvision' in sys.modules)"
    )
    printed = run([sys.executable, "-c", code, fastvision.library_path(), package[0]])
    assert printed == "torch.Size([2, 2, 4]) torch.Size([]) False\n"


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a name that ends in '.pt2', got '.*model.so'"):
        fastvision.export(cnn(), torch.ones(1, 1, 12, 12), tmp_path / "model.so")
    with pytest.raises(FileNotFoundError, match=r"path: expected a file that fastvision.export wrote, got"):
        fastvision.load(tmp_path / "model.pt2")
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got builtin"):
        fastvision.export(len, torch.ones(1), tmp_path / "model.pt2")
    assert fastvision.library_path().is_file()
