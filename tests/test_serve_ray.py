"""examples/serve_ray.py: started, and called by many clients at a time."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch

pytest.importorskip("ray.serve", reason='Ray Serve (the extra "serve") is not installed')

import fastvision
import fastvision.models

ROOT = Path(__file__).parents[1]
URL = "http://127.0.0.1:8123/"


@pytest.fixture
def serve(monkeypatch):
    import ray
    from ray import serve

    monkeypatch.syspath_prepend(ROOT / "examples")
    folders = os.pathsep.join(map(str, (Path(fastvision.__file__).parents[1], ROOT / "examples")))
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": folders}}
    )
    serve.start(http_options={"port": 8123})
    yield serve
    serve.shutdown()
    ray.shutdown()


def ask(image: torch.Tensor) -> list[float]:
    body = json.dumps(image.tolist()).encode()
    with urlopen(Request(URL, body, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_replicas_answer_what_the_model_computes(serve):
    import serve_ray

    serve.run(serve_ray.app)
    torch.manual_seed(0)
    model = fastvision.models.RecognitionCNN(10, in_channels=1, input_size=28, padding=1).eval()
    images = torch.rand(40, 1, 28, 28)
    with ThreadPoolExecutor(16) as clients:
        answers = torch.tensor(list(clients.map(ask, images)))
    torch.testing.assert_close(answers, model(images).softmax(-1).detach(), rtol=1e-4, atol=1e-5)
    replicas = serve.status().applications["default"].deployments["Recognition"].replica_states
    assert sum(replicas.values()) == 2
