"""The model of a teacher: loaded, and cut to the length that the student reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ibkd_retrieval.distill.sections import TeacherConfig, TrainingConfig
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.encoders.backends.backend import weights_in
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.encoders.loading import load_sentence_transformer, short_model_name
from ibkd_retrieval.encoders.prompts import set_prompts
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.cluster import Cluster


def load_teacher(name: str, own: TeacherConfig, dtype: str, device: str) -> SentenceTransformer | None:
    """Load the weights of a teacher. An endpoint gives none."""
    if is_endpoint(name):
        return None
    weights = weights_in(dtype, "torch", device)
    model = load_sentence_transformer(
        name, device=device, dtype=weights, pooling=own.pooling, device_map=own.device_map
    )
    set_prompts(model, own.query_prompt, own.document_prompt, of="teacher_")
    return model


def whole_and_cut(
    name: str,
    model: SentenceTransformer,
    settings: TrainingConfig,
    load: Callable[[], SentenceTransformer] | None = None,
) -> tuple[Encoder, Encoder]:
    """A teacher with its own length, and one that reads no more of a text than the student. They share the weights.

    `load` loads the model again after it was released.
    """

    def again(which: int) -> Encoder:
        return whole_and_cut(name, cast(Any, load)(), settings, load)[which]

    first, second = (partial(again, which) if load is not None else None for which in (0, 1))
    own = model.max_seq_length
    # A static model has no length limit.
    length = settings.max_length if own is None else min(settings.max_length, own)
    if is_static(model) or length == own:
        whole = Encoder(model, name, dtype=settings.dtype, again=first)
        return whole, whole
    model.max_seq_length = length
    cut = weight_hash(model)
    model.max_seq_length = own
    whole = Encoder(model, name, dtype=settings.dtype, again=first)
    return whole, whole.shortened(length, cut, second)


def open_cache(name: str, model: SentenceTransformer, settings: TrainingConfig, root: Path) -> TeacherCache:
    """Open the cache of a teacher. The teacher reads no more tokens of a text than the student does.

    Args:
        name: name of the teacher.
        model: the teacher. It is converted in place.
        settings: the training settings, which give the maximum length and the dtype.
        root: folder of all caches.

    Raises:
        UserError: the folder is not a cache of this teacher at this length.
    """
    return cache_of(whole_and_cut(name, model, settings)[1], root)


def cache_of(reader: Encoder, root: Path) -> TeacherCache:
    """Open the cache of a teacher that reads as much of a text as the student."""
    return TeacherCache(root / f"{short_model_name(reader.name)}-{reader.weight_hash[:12]}-{reader.dtype}", reader)


@dataclass(frozen=True)
class LoadTeacher:
    """Loads a teacher that reads as much of a text as the student, in a process of a cluster (`EncoderLoader`).

    Attributes:
        name: the full path of its folder, or its hub name.
        own: how it is loaded.
        training: the training settings, with the number format that the driver chose.
        device: "cpu" or "cuda".
        backend: what runs it.
    """

    name: str
    own: TeacherConfig
    training: TrainingConfig
    device: str
    backend: str = "torch"

    @property
    def dtype(self) -> str:
        """The number format."""
        return self.training.dtype

    def __call__(self, number: int, count: int) -> Encoder:
        """Load the model.

        Raises:
            UserError: there is no such model.
        """
        import torch

        from ibkd_retrieval.indexing.building.workers import available_threads

        torch.set_num_threads(available_threads())
        model = cast("SentenceTransformer", load_teacher(self.name, self.own, self.training.dtype, self.device))
        return whole_and_cut(self.name, model, self.training)[1]


def spread_over(
    cluster: Cluster, cache: TeacherCache, own: TeacherConfig, training: TrainingConfig, progress: Progress
) -> None:
    """Have the nodes of a cluster encode the texts that a cache lacks."""
    from ibkd_retrieval.indexing.building.cluster import ClusterEncoders

    teacher = cache.teacher
    # The processes of a cluster start in a folder of their own.
    name = str(Path(teacher.name).resolve()) if Path(teacher.name).is_dir() else teacher.name
    load = LoadTeacher(name, own, replace(training, dtype=teacher.dtype), teacher.device.partition(":")[0])
    cache.nodes = ClusterEncoders(cluster, load, teacher.weight_hash, progress)
