"""The other side of the benchmark: a library with requirements of its own, in a process of an interpreter of its own."""

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from flax import nnx

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.weights import save_hf

ROOT = Path(__file__).parents[2]  # where `experiments` is found


@dataclass(frozen=True)
class Side:
    """A library to compare with.

    Attributes:
        name: in `--against NAME` and `--NAME-python PATH`.
        program: the module that serves it (`serving.serve`).
        needs: modules that the interpreter must have.
        install: what installs them.
    """

    name: str
    program: str
    needs: tuple[str, ...]
    install: str

    @property
    def flag(self) -> str:
        """The flag that names the interpreter."""
        return f"--{self.name}-python"


TRANSFORMERS = Side(
    "transformers", "experiments.bench.transformers_side", ("torch", "transformers"), "pip install torch==2.13.0 transformers"
)
TUNIX = Side("tunix", "experiments.bench.tunix_side", ("tunix",), "pip install google-tunix")


class OpponentError(RuntimeError):
    """The other side failed, fell silent or ended; holds the end of what it wrote to stderr."""


@dataclass(frozen=True)
class Generation:
    """What the other side did.

    Attributes:
        tokens: [rows][new tokens] of the last call; as many as were asked for, or those before a row's stop token.
        seconds: of each call. The first has compilation in it, where the library compiles.
        compilations: by XLA in each call, those of single operations outside the compiled loops too; empty for torch.
    """

    tokens: list[list[int]]
    seconds: tuple[float, ...]
    compilations: tuple[int, ...] = ()


def checked_interpreter(side: Side, given: str | Path) -> str:
    """Absolute path of the interpreter `given`, which has what `side` needs; its modules are looked for, not imported.

    Raises:
        FileNotFoundError: there is no such interpreter, or it does not run.
        ModuleNotFoundError: it lacks a module. Both say how to mend it.
    """
    mend = f"in an environment of its own run `{side.install}`, then give that environment's python by {side.flag}"
    found = shutil.which(given)
    if found is None:
        raise FileNotFoundError(f"{side.flag} {given}: there is no such program; {mend}")
    path = os.path.abspath(found)  # links are not followed: a virtual environment is where the link is
    look = "import importlib.util, sys; print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))"
    try:
        run = subprocess.run([path, "-c", look, *side.needs], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise FileNotFoundError(f"{side.flag} {given}: this is no Python interpreter ({error}); {mend}") from error
    if missing := run.stdout.split():
        raise ModuleNotFoundError(f"{side.flag} {given} has no {' and no '.join(missing)}: {mend}")
    return path


def available(side: Side, interpreter: str | Path) -> bool:
    """Whether `interpreter` has what `side` needs."""
    try:
        checked_interpreter(side, interpreter)
    except (FileNotFoundError, ModuleNotFoundError):
        return False
    return True


@contextmanager
def hf_directory(config: LMConfig, params: nnx.State, tokenizer: Any = None) -> Iterator[Path]:
    """A temporary Hugging Face directory of a model, or of a bare shape without a tokenizer: what both sides load."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        save_hf(directory, config, params)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        yield directory


class Opponent:
    """The other side at work, with the model loaded; a context manager, that ends it.

    Args:
        side: `TRANSFORMERS` or `TUNIX`.
        interpreter: the Python that has it.
        directory: Hugging Face directory of the model.
        patience: seconds that starting, and each request, may take.

    Attributes:
        about: what it said of itself: versions, device, threads, and for transformers whether the CPU has AMX.

    Raises:
        FileNotFoundError, ModuleNotFoundError: as `checked_interpreter`.
        OpponentError: it did not start.
    """

    def __init__(self, side: Side, interpreter: str | Path, directory: Path, *, patience: float = 600.0):
        path = checked_interpreter(side, interpreter)
        self._name, self._patience = f"{side.name} ({interpreter})", patience
        with ExitStack() as undo:
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            self._process = process = subprocess.Popen(
                [path, "-m", side.program, directory.resolve()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                cwd=ROOT,
                encoding="utf-8",
                errors="replace",
            )
            assert process.stdin is not None
            assert process.stdout is not None
            self._requests, self._answers = process.stdin, process.stdout
            # a thread reads, because waiting for a line of a pipe knows no time limit; None is the end
            self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
            undo.callback(self._end)
            self.about = self._answer()
            self._undo = undo.pop_all()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        dtype: str = "float32",
        stop_ids: Sequence[int] = (),
        seed: int = 0,
        repeat: int = 1,
    ) -> Generation:
        """Continue the prompts, all in one batch, `repeat` times over.

        Args:
            prompts: token ids, at least one each; may differ in length.
            new_tokens: for each prompt; fewer only where a stop token ends it.
            temperature: 0 is greedy.
            top_p: 1 is off.
            top_k: 0 is off.
            dtype: "float32" or "bfloat16", of parameters and matmuls.
            stop_ids: tokens that end a row; none by default, so that every row gets `new_tokens`.
            seed: of the draws; the two sides' draws have nothing in common.
            repeat: calls, each timed.

        Raises:
            OpponentError: it failed, with its traceback; it ended, or took longer than its patience allows.
        """
        request = {
            "prompts": [[int(token) for token in prompt] for prompt in prompts],
            "new_tokens": new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "dtype": dtype,
            "stop_ids": [int(token) for token in stop_ids],
            "seed": seed,
            "repeat": repeat,
        }
        with suppress(OSError):  # it has ended: so will the answers, and there is said how
            print(json.dumps(request), file=self._requests, flush=True)
        answer = self._answer()
        try:
            return Generation(answer["tokens"], tuple(answer["seconds"]), tuple(answer.get("compilations", ())))
        except (KeyError, TypeError) as error:
            raise self._error(f"answered with the fields {sorted(answer)}, not with tokens and seconds") from error

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._undo.close()

    def __enter__(self) -> "Opponent":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._answers.close()
        with suppress(OSError):  # a request that nobody took
            self._requests.close()

    def _read(self) -> None:
        for line in self._answers:
            self._lines.put(line)
        self._lines.put(None)

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._patience)
        except queue.Empty:
            raise self._error(f"gave no answer for {self._patience:g} s") from None
        if line is None:
            self._lines.put(None)  # for the next request
            with suppress(subprocess.TimeoutExpired):  # what it has closed is its stdout; that is nearly always its end
                self._process.wait(10)
            raise self._error(f"ended with status {self._process.returncode}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"answered {line.strip()[:200]!r}, which is no JSON object")
        if "error" in answer:
            raise OpponentError(f"{self._name} failed:\n{answer['error'].strip()}")
        return answer

    def _error(self, what: str) -> OpponentError:
        """What went wrong, and its end: a later answer could belong to an earlier request."""
        self._process.kill()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()[-20:]
        return OpponentError("\n".join((f"{self._name} {what}; its last words:", *(said or ["(none)"]))))
