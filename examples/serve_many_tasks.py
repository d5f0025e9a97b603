"""Serve many tasks of one model over HTTP: requests for different tasks that come together run as one batch.

Usage:
    pip install 'tensorfact[serve]'
    python examples/serve_many_tasks.py                       # a bank of 20 tasks, made here, at http://127.0.0.1:8000
    python examples/serve_many_tasks.py --bank bank/          # a bank that `Bank.save` wrote
    python examples/serve_many_tasks.py --load                # 100 clients on loopback; every answer is checked

A request waits at most 5 ms for others. A batch is one pass of the model, whatever the tasks of its images.

    curl http://127.0.0.1:8000/tasks
    curl -X POST http://127.0.0.1:8000/predict -H 'Content-Type: application/json' \
         -d '{"task": "task 3", "image": [[0.1, ...], ...]}'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from torch import Tensor

from tensorfact import Tasks, adapt, open_bank
from tensorfact.errors import TensorfactError
from tensorfact.lab import nano

WAIT, LARGEST = 0.005, 32
"""How many seconds a request waits for others, and the most requests of a batch."""


class Request(BaseModel):
    """An image of 28 x 28 grey values, and the task to run it with."""

    task: str
    image: list[list[float]]


class Server:
    """Collects requests to batches, and runs each batch in one pass of the model.

    Args:
        folder: The folder of the bank.
        slots: How many tasks are in memory.
    """

    def __init__(self, folder: Path, slots: int = 64) -> None:
        self.model = nano()
        self.model.eval()
        self.bank = open_bank(self.model, folder, slots=slots)
        self.queue: asyncio.Queue[tuple[str, Tensor, asyncio.Future[list[float]]]] = asyncio.Queue()
        self.sizes: list[int] = []

    async def run(self) -> None:
        """Run batches until the task is cancelled."""
        while True:
            batch = [await self.queue.get()]
            end = time.monotonic() + WAIT
            while len(batch) < LARGEST and (left := end - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self.queue.get(), left))
            names, images, answers = zip(*batch, strict=True)
            found = await asyncio.to_thread(self.answers, names, images)
            for answer, row in zip(answers, found, strict=True):
                if isinstance(row, TensorfactError):
                    answer.set_exception(HTTPException(503, str(row)))
                else:
                    answer.set_result(row)

    def answers(self, tasks: Sequence[str], images: Sequence[Tensor]) -> list[list[float] | TensorfactError]:
        """Return the probabilities for each image, or the error of its task: one by one if the batch has an error."""
        try:
            return list(self.predict(tasks, torch.stack(list(images))))
        except TensorfactError as error:
            if len(tasks) == 1:
                return [error]
        return [row for task, image in zip(tasks, images, strict=True) for row in self.answers([task], [image])]

    def predict(self, tasks: Sequence[str], images: Tensor) -> list[list[float]]:
        """Return the probabilities of the classes of each image's task."""
        with torch.inference_mode(), self.bank.batch(list(tasks)):
            rows = self.model(images).softmax(-1)
        self.sizes.append(len(tasks))
        return [row[: self.bank.classes(task)].tolist() for task, row in zip(tasks, rows, strict=True)]

    async def answer(self, request: Request) -> list[float]:
        """Return the probabilities for one request, once its batch has run."""
        if len(request.image) != 28 or any(len(row) != 28 for row in request.image):
            raise HTTPException(422, "the image does not have 28 rows of 28 values")
        image = torch.tensor(request.image)
        if request.task not in self.bank.tasks:
            raise HTTPException(404, f"no task {request.task!r}")
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        await self.queue.put((request.task, image[None], answer))
        return await answer


def application(server: Server) -> FastAPI:
    """Return the routes of a server."""

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(server.run())
        yield
        worker.cancel()

    app = FastAPI(lifespan=running)

    @app.get("/tasks")
    async def tasks() -> list[str]:
        return list(server.bank.tasks)

    @app.post("/predict")
    async def predict(request: Request) -> list[float]:
        return await server.answer(request)

    return app


def made(folder: Path, count: int = 20) -> None:
    """Write a bank of tasks whose factors are random."""
    torch.manual_seed(0)
    bank = adapt(
        nano(), tasks=Tasks([f"task {at}" for at in range(count)], ["U", "V"], [2 + at % 9 for at in range(count)])
    )
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    bank.save(folder)


async def load(server: Server, address: str, clients: int = 100) -> float:
    """Let clients send requests at once, check each answer against its task alone, and return requests a second."""
    generator = torch.Generator().manual_seed(0)
    names = [server.bank.tasks[at % len(server.bank.tasks)] for at in range(clients)]
    images = torch.rand(clients, 28, 28, generator=generator)
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        start = time.monotonic()
        found = await asyncio.gather(
            *(
                client.post("/predict", json={"task": t, "image": x.tolist()})
                for t, x in zip(names, images, strict=True)
            )
        )
        took = time.monotonic() - start
        missing = await client.post("/predict", json={"task": "none", "image": images[0].tolist()})
    assert missing.status_code == 404
    for name, image, response in zip(names, images, found, strict=True):
        server.bank.use(name)
        with torch.inference_mode():
            alone = server.model(image[None, None]).softmax(-1)[0]
        assert torch.allclose(torch.tensor(response.json()), alone, atol=1e-5), name
    return clients / took


def main() -> None:
    """Serve a bank, or test the server under load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, help="folder of the bank; default: 20 tasks, made here")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--load", action="store_true", help="test the server with 100 clients, and exit")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.bank or Path(scratch)
        if args.bank is None:
            made(folder)
        server = Server(folder)
        config: Any = uvicorn.Config(application(server), port=args.port, log_level="warning")
        service = uvicorn.Server(config)
        if not args.load:
            service.run()
            return
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        while not service.started:
            time.sleep(0.01)
        rate = asyncio.run(load(server, f"http://127.0.0.1:{args.port}"))
        service.should_exit = True
        thread.join()
        print(
            f"100 answers right, {rate:.0f} requests a second, {len(server.sizes)} batches of up to {max(server.sizes)}"
        )


if __name__ == "__main__":
    main()
