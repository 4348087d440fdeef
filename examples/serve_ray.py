"""Serves a converted model with Ray Serve, which gathers requests into batches and shares them among replicas.

    pip install "fastvision[serve]"
    serve run examples.serve_ray:app

    curl -X POST -H "Content-Type: application/json" -d @image.json http://127.0.0.1:8000/

A request is an image, nested lists of numbers (1, 28, 28); the answer is the list of the classes' probabilities.
"""

import asyncio

import torch
from ray import serve
from starlette.requests import Request

import fastvision
from fastvision.models import RecognitionCNN


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Recognition:
    """A replica: one process with a model of its own.

    Args:
        weights: file of a state_dict; None leaves random weights.
    """

    def __init__(self, weights: str | None = None) -> None:
        torch.set_num_threads(1)  # replicas share the machine
        torch.manual_seed(0)
        model = RecognitionCNN(10, in_channels=1, input_size=28, padding=1)
        if weights is not None:
            model.load_state_dict(torch.load(weights))
        self.model = fastvision.convert(model.eval(), torch.zeros(1, 1, 28, 28))

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def recognise(self, images: list[torch.Tensor]) -> list[list[float]]:
        """Probabilities of each image; Ray Serve calls it with the images of all requests that wait."""
        # In a thread, so that the replica takes the next requests meanwhile.
        return await asyncio.to_thread(self._recognise, torch.stack(images))

    def _recognise(self, images: torch.Tensor) -> list[list[float]]:
        with torch.inference_mode():
            return self.model(images).softmax(-1).tolist()

    async def __call__(self, request: Request) -> list[float]:
        return await self.recognise(torch.tensor(await request.json(), dtype=torch.float32))


app = Recognition.bind()
