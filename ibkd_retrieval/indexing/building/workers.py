"""Encodes in several processes. Each has its own model, and an equal share of the cores or a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import Failure, WorkFailed
from ibkd_retrieval.indexing.building.pipeline import answering
from ibkd_retrieval.indexing.building.ranges import FileDocuments
from ibkd_retrieval.indexing.format.shards import ids_of, line_of
from ibkd_retrieval.indexing.format.staging import StagedLines, StagedVectors, Staging
from ibkd_retrieval.progress import SILENT, Task

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from ibkd_retrieval.encoders.protocol import PreparedTexts

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def take_share(number: int, count: int) -> None:
    """Pin process `number` of `count`, counted from 0, to its share of the cores, with one thread per core.

    An unpinned process moves between cores and loses its caches. If the system does not allow pinning, only the number
    of threads is set. Libraries that start threads read it when they are first imported.
    """
    threads = max(1, min(len(_cores()) // count, available_threads()))
    if hasattr(os, "sched_setaffinity"):
        # Without permission to pin, encoding is only slower.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, share_of(_cores(), number, count))
    for variable in _THREADS:
        os.environ[variable] = str(threads)


def share_of(cores: Sequence[int], number: int, count: int) -> Sequence[int]:
    """The share of `cores` for process `number` of `count`: equal, at least one, and neighbouring."""
    each = max(1, len(cores) // count)
    start = number % (len(cores) // each) * each
    return cores[start : start + each]


def available_threads() -> int:
    """The number of cores of this process, or the user's OpenMP limit if that is lower."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(len(_cores()), int(asked) if asked.isdecimal() else len(_cores())))


def _cores() -> list[int]:
    """The logical cores that this process may use, grouped by socket and physical core."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=_place)


def _place(core: int) -> tuple[int, int, int]:
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, physical = ((topology / name).read_text("ascii") for name in ("physical_package_id", "core_id"))
        return int(package), int(physical), core
    except (OSError, ValueError):
        return 0, core, core


class UnencodedShard(NamedTuple):
    """A shard of documents before encoding.

    Attributes:
        number: number of the shard in the index.
        documents: the documents.
        fingerprint: hash of the documents (`plan.fingerprint`).
        prepared: the tokens, if they are ready.
    """

    number: int
    documents: Sequence[Document]
    fingerprint: str
    prepared: PreparedTexts | None = None

    def without_tokens(self) -> UnencodedShard:
        """The same shard after encoding, without its tokens."""
        return self._replace(prepared=None)


class EncodedShard(NamedTuple):
    """A shard after encoding.

    Attributes:
        shard: the documents.
        vectors: their vectors [n, dim], or where those are.
        seconds: encoding time.
        lines: where the documents are, if whoever encoded them wrote them.
    """

    shard: UnencodedShard
    vectors: NDArray[np.float32] | StagedVectors
    seconds: float
    lines: StagedLines | None = None


class EncoderLoader(Protocol):
    """Makes the encoder of a process. It is sent to the process, so it must be picklable."""

    def __call__(self, number: int, count: int) -> TextEncoder:
        """Load the encoder of process `number` of `count`, counted from 0."""


@dataclass(frozen=True)
class LoadEncoder:
    """Loads a model by name on its process's share of the machine: a GPU, or the pinned cores.

    The fields are arguments of `Encoder.load`.
    """

    name: str
    device: str = "auto"
    dtype: str = "auto"
    pooling: str | None = None
    max_length: int | None = None
    dim: int | None = None
    batch_tokens: int | None = None
    backend: str = "torch"
    query_prompt: str | None = None
    document_prompt: str | None = None

    def __call__(self, number: int, count: int) -> TextEncoder:
        """Load the model.

        Raises:
            UserError: as `Encoder.load` does.
        """
        import torch

        from ibkd_retrieval.encoders.device import choose_device
        from ibkd_retrieval.encoders.encoder import Encoder

        for variable in _THREADS:
            # Ray gives a process its number of threads for OpenMP alone. It pins nothing, and shares a node's cores.
            os.environ.setdefault(variable, str(available_threads()))
        torch.set_num_threads(available_threads())
        device = choose_device(self.device)
        if device == "cuda":
            device = f"cuda:{number % torch.cuda.device_count()}"
        settings = dataclasses.asdict(self) | {"device": device}
        return Encoder.load(settings.pop("name"), **settings, progress=SILENT)


def to_send(documents: Sequence[Document]) -> FileDocuments | list[str]:
    """What a process needs to encode documents: where they are, or their texts."""
    return documents if isinstance(documents, FileDocuments) else contents(documents)


def contents(documents: Sequence[Document]) -> list[str]:
    """The texts to encode."""
    return [document.content for document in documents]


def _job(documents: Sequence[Document], staging: Staging | None) -> tuple[FileDocuments | list[str], Staging | None]:
    sent = to_send(documents)
    return sent, staging.open() if staging is not None and isinstance(sent, FileDocuments) else None


class Answer(NamedTuple):
    """What a process made of a shard.

    Attributes:
        vectors: the vectors [n, dim], or where they are.
        seconds: encoding time.
        lines: where the documents are, if they were written.
    """

    vectors: NDArray[np.float32] | StagedVectors
    seconds: float
    lines: StagedLines | None = None


def encode_sent(
    encoder: TextEncoder,
    number: int,
    sent: FileDocuments | list[str],
    staging: Staging | None,
    task: Task | None = None,
) -> Answer:
    """Encode a shard in a process that was sent it, and write what can be written.

    Raises:
        UserError: the file of the documents was changed, or they cannot be encoded.
        OSError: the disk is full or fails.
    """
    documents = sent.read() if isinstance(sent, FileDocuments) else None
    texts = sent if isinstance(sent, list) else contents(documents or ())
    start = time.perf_counter()
    vectors = np.ascontiguousarray(encoder.encode(texts, "document", task), dtype=np.float32)
    seconds = time.perf_counter() - start
    stored = vectors if staging is None else staging.write_vectors(number, vectors)
    if documents is None or staging is None or not isinstance(stored, StagedVectors):
        return Answer(stored, seconds)
    return Answer(stored, seconds, staging.write_lines(number, map(line_of, documents), ids_of(documents)))


class ShardEncoders(Protocol):
    """Whatever encodes whole shards outside this process."""

    def encode(
        self, shards: Iterator[UnencodedShard], task: Task, staging: Staging | None = None
    ) -> Iterator[EncodedShard]:
        """Encode shards from a stream. Results come in the order in which they finish.

        Args:
            shards: what to encode.
            task: receives the number of documents.
            staging: where vectors may be written instead of returned.
        """


@dataclass(frozen=True)
class EncoderProcesses:
    """Processes that encode whole shards.

    Attributes:
        count: number of processes.
        load: makes the encoder of each process.
    """

    count: int
    load: EncoderLoader

    def encode(
        self, shards: Iterator[UnencodedShard], task: Task, staging: Staging | None = None
    ) -> Iterator[EncodedShard]:
        """Encode shards from a stream. Results come in the order in which they finish.

        A process that reads the documents itself writes them and the vectors. Otherwise it sends the vectors.

        Raises:
            UserError: a model cannot be loaded, or a text not read.
            WorkFailed: a process was killed or failed.
        """
        running: dict[Connection, SpawnProcess] = {}
        try:
            self._start(running)
            # The shard that each process encodes. None while it loads its model.
            busy: dict[Connection, UnencodedShard | None] = dict.fromkeys(running)
            while busy:
                for connection in cast("list[Connection]", wait(list(busy))):
                    process = running[connection]
                    message = self._received(connection, process, busy[connection])
                    if isinstance(message, _Advanced):
                        task.advance(message.texts)
                        continue
                    done, following = busy[connection], next(shards, None)
                    if following is None:
                        del busy[connection]
                    else:
                        busy[connection] = following
                        try:
                            connection.send((following.number, *_job(following.documents, staging)))
                        except (BrokenPipeError, ConnectionError):
                            raise self._died(process, following) from None
                    if done is not None:
                        yield EncodedShard(done, message.vectors, message.seconds / self.count, message.lines)
                    del done, message, following
        finally:
            for connection, process in running.items():
                connection.close()
                process.terminate()
                process.join()

    def _start(self, running: dict[Connection, SpawnProcess]) -> None:
        """Start the processes, which load their models at once, and add them to `running` by their connections."""
        context = multiprocessing.get_context("spawn")
        for number in range(self.count):
            ours, theirs = context.Pipe()
            arguments = (theirs, self.load, number, self.count)
            process = context.Process(target=_work, args=arguments, name=str(number + 1), daemon=True)
            process.start()
            theirs.close()
            running[ours] = process

    def _received(self, connection: Connection, process: SpawnProcess, shard: UnencodedShard | None) -> Any:
        try:
            message = connection.recv()
        except (EOFError, ConnectionError):
            raise self._died(process, shard) from None
        if isinstance(message, Failure):
            raise message.error()
        return message

    def _died(self, process: SpawnProcess, shard: UnencodedShard | None) -> WorkFailed:
        process.join(5)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        where = f"while it encoded shard {shard.number}" if shard is not None else "while it loaded the model"
        return WorkFailed(
            f"Encoder process {process.name} of {self.count} {how} {where} (often for lack of memory): what is "
            "finished is kept; go on with `resume`, and with fewer `workers` if it happens again."
        )


class _Ready(NamedTuple):
    pass


class _Advanced(NamedTuple):
    texts: int


class _Reporting:
    """Forwards progress to the process that shows it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def advance(self, count: int = 1, note: str = "") -> None:
        self._connection.send(_Advanced(count))


def _work(connection: Connection, load: EncoderLoader, number: int, count: int) -> None:
    """The main function of a process: load the model, then encode shards until the connection closes."""
    from tqdm import tqdm

    with answering(connection, "Encoding"), contextlib.suppress(EOFError):
        take_share(number, count)
        # Libraries show bars. tqdm's own lock has a semaphore, which a process that is terminated does not give back.
        tqdm.set_lock(threading.RLock())
        encoder = load(number, count)
        reply: Any = _Ready()
        while True:
            connection.send(reply)
            shard, sent, staging = connection.recv()
            reply = encode_sent(encoder, shard, sent, staging, _Reporting(connection))
