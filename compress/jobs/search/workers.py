"""Other processes of this machine that work for the one which has the run folder, and end with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any

from compress.artefacts.run import RECIPE
from compress.jobs.search.task import Task, prepared
from compress.progress import Silent
from compress.recipe import SearchRecipe, read_recipe


def threads_of_each(count: int) -> int:
    """The part of this machine's cores that each of so many processes has."""
    return max(1, len(os.sched_getaffinity(0)) // count)


class Worker:
    """One process. number: 1 is the process that starts them."""

    def __init__(self, number: int, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.number, self.process, self._errors = number, process, errors

    def ended(self) -> str | None:
        """How it ended, if not well."""
        code = self.process.poll()
        if not code:
            return None
        self._errors.seek(0)
        return f"signal {-code}" if code < 0 else self._errors.read().strip()[-500:]

    def ask(self, job: Any) -> Any:
        """What it answers, see `jobs`. Raises EOFError if it ends instead."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.endswith("\n"):
            self.process.wait()
            raise EOFError
        return json.loads(answer)


@contextmanager
def worker(task: Task, module: str, number: int, *, threads: int) -> Iterator[Worker]:
    """A process of the module, in which `told` has the same task; it ends with the block, or with this process."""
    search = task.recipe.search
    given = {"folder": str(task.run.folder), "workers": search.workers, "storage": search.storage}
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps({**given, "network": task.named}) + "\n")
                process.stdin.flush()
            yield Worker(number, process, errors)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()


class Told:
    """In such a process: the task, and what it is asked.

    Raises a CompressError as `prepared` does. Ctrl-C is for the process that started it, with which it ends. What
    libraries print goes to the errors.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        given = json.loads(sys.stdin.readline())
        self._jobs: Queue[Any] = Queue()
        Thread(target=self._read, daemon=True).start()
        folder = Path(given["folder"])
        recipe = read_recipe(folder / RECIPE, SearchRecipe)
        told = {"workers": given["workers"], "storage": given["storage"]}
        recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update=told)})
        self.task = prepared(recipe, folder, Silent(), given["network"])

    def jobs(self) -> Iterator[Any]:
        """What `Worker.ask` sends; each is to be answered before the next."""
        while True:
            yield self._jobs.get()

    def answer(self, answer: Any) -> None:
        """To the last job."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def _read(self) -> None:
        for line in sys.stdin:
            self._jobs.put(json.loads(line))
        os._exit(1)  # the process that started it has ended
