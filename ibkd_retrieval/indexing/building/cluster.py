"""Encodes shards on the nodes of a cluster. The files are those of one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.encoders.autotune.cpu import is_emulated, processor_features
from ibkd_retrieval.encoders.protocol import Kind, TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.ranges import FileDocuments
from ibkd_retrieval.indexing.building.workers import (
    Answer,
    EncodedShard,
    EncoderLoader,
    UnencodedShard,
    contents,
    encode_sent,
    to_send,
)
from ibkd_retrieval.indexing.format.staging import Staging
from ibkd_retrieval.progress import SILENT, Progress, Task

T = TypeVar("T")

_PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}
"""What a backend computes with, beside what all need."""


@dataclass(frozen=True)
class ClusterEncoders:
    """Encoders on the nodes of a cluster.

    Attributes:
        cluster: the cluster, with the number and size of the encoders.
        load: makes the encoder of a process.
        weight_hash: the weight hash that every encoder must have.
        progress: receives a line for each node.
    """

    cluster: Cluster
    load: EncoderLoader
    weight_hash: str
    progress: Progress = SILENT

    def encode(
        self, shards: Iterator[UnencodedShard], task: Task, staging: Staging | None = None
    ) -> Iterator[EncodedShard]:
        """Encode shards from a stream. Results come in the order in which they finish.

        A node that sees the index folder writes its vectors there. Another sends them. Nodes read the documents of a
        file if all of them see it.

        Raises:
            UserError: a node has another model or lacks the number format, a text cannot be read, or as `Cluster.run`
                says.
            WorkFailed: as `Cluster.run` says.
            MissingPackage: ray is not installed.
        """
        blind: list[str] = []
        running = self.cluster.run(
            _encode,
            shards,
            given=lambda shard: (shard.number, contents(shard.documents) if blind else to_send(shard.documents)),
            called=_called,
            common=(self.load, staging and staging.open()),
            packages=_PACKAGES.get(getattr(self.load, "backend", ""), ()),
            preflight=inspect,
            joined=partial(self._joined, inspect(self.load, staging), blind),
            doing="Encoding",
            process="encoder process",
            advice=" and a smaller `batch_tokens`, or leave out what is wrong with these documents",
        )
        with closing(running):
            for shard, answer, node in running:
                self._check_model(node, answer.weight_hash)
                task.advance(len(shard.documents))
                yield EncodedShard(shard, *answer.made)
                del shard, answer

    def vectors(
        self, items: Iterator[T], texts: Callable[[T], list[str]], called: Callable[[T], str], kind: Kind
    ) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """Encode the texts of items from a stream: each item with its vectors [n, dim], in the order they finish.

        Args:
            items: what has texts.
            texts: gives the texts of an item.
            called: gives the name of an item for a message.
            kind: whether they are documents or queries.

        Raises:
            UserError: as `encode` says.
            WorkFailed: as `Cluster.run` says.
            MissingPackage: ray is not installed.
        """
        running = self.cluster.run(
            _encode_texts,
            items,
            given=lambda item: (kind, texts(item)),
            called=called,
            common=(self.load, None),
            preflight=inspect,
            joined=partial(self._joined, inspect(self.load, None), []),
            doing="Encoding",
            process="encoder process",
        )
        with closing(running):
            for item, (vectors, weight_hash), node in running:
                self._check_model(node, weight_hash)
                yield item, vectors
                del item, vectors

    def _check_model(self, node: str, weight_hash: str) -> None:
        if weight_hash != self.weight_hash:
            raise UserError(
                f"Node {node} has another model under the name of this one: give all nodes the same files, in a folder "
                "that they share."
            )

    def _joined(self, here: Inspection, blind: list[str], node: str, there: Inspection) -> None:
        """Say what a node will do. It is added to `blind` where texts must be sent.

        Raises:
            UserError: it computes otherwise.
        """
        dtype = getattr(self.load, "dtype", "")
        if there.emulates and not here.emulates:
            raise UserError(
                f"Node {node} has no instructions for {dtype}, which this machine has: give `dtype='float32'`, or "
                "leave the node out."
            )
        if there.features != here.features:
            self.progress.say(
                f"Node {node} has another processor ({', '.join(there.features)}; here {', '.join(here.features)}): "
                "the last bits of its vectors can differ."
            )
        reads = here.sees_corpus and there.sees_corpus
        if here.sees_corpus and not reads:
            blind.append(node)
        what = "vectors and documents" if reads else "vectors"
        how = f"writes its {what} into the index folder" if there.sees_folder else "sends its vectors"
        if here.sees_corpus:
            how = f"{'reads' if reads else 'does not see'} the corpus, {how}"
        by = f" with {getattr(self.load, 'backend', '')} in {dtype}" if dtype else ""
        self.progress.say(f"Node {node} encodes{by}, and {how}.")


def _called(shard: UnencodedShard) -> str:
    first, last = shard.documents[0].doc_id, shard.documents[-1].doc_id
    return f"Shard {shard.number} (documents {first!r} to {last!r})"


class _Encoded(NamedTuple):
    made: Answer
    weight_hash: str


class Inspection(NamedTuple):
    """What decides how a node encodes.

    Attributes:
        features: the processor's instructions, as torch sees them. Empty where the loader names no number format.
        emulates: whether it has no instructions for the number format.
        sees_folder: whether it sees the index folder.
        sees_corpus: whether it sees the file of the corpus, as it was when the build began.
    """

    features: tuple[str, ...]
    emulates: bool
    sees_folder: bool
    sees_corpus: bool


def inspect(load: EncoderLoader, staging: Staging | None) -> Inspection:
    """Inspect this machine, before it encodes."""
    visible = staging is not None and staging.is_visible()
    readable = staging is not None and staging.corpus is not None and staging.corpus.is_unchanged()
    dtype = getattr(load, "dtype", None)
    if dtype is None or getattr(load, "device", "cpu").startswith("cuda"):
        return Inspection((), False, visible, readable)
    return Inspection(processor_features(), is_emulated(dtype), visible, readable)


_loaded: dict[EncoderLoader, TextEncoder] = {}
"""The encoder of this process, kept for its next shard."""


def _encode(load: EncoderLoader, staging: Staging | None, number: int, sent: FileDocuments | list[str]) -> _Encoded:
    """Encode the texts of a shard in a process of the cluster."""
    encoder = _kept(load)
    return _Encoded(encode_sent(encoder, number, sent, staging), encoder.weight_hash)


def _encode_texts(
    load: EncoderLoader, staging: None, kind: Kind, texts: Sequence[str]
) -> tuple[NDArray[np.float32], str]:
    """Encode texts in a process of the cluster: the vectors [n, dim] and the weight hash of the model."""
    encoder = _kept(load)
    return np.ascontiguousarray(encoder.encode(texts, kind), dtype=np.float32), encoder.weight_hash


def _kept(load: EncoderLoader) -> TextEncoder:
    if load not in _loaded:
        _loaded.clear()
        _loaded[load] = load(0, 1)
    return _loaded[load]
