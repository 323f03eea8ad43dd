"""`evaluate_suite`: the public function that indexes, searches and scores every data set of a suite."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.corpora.catalog.descriptions import SuiteMember, open_suite
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.encoders.autotune.load import load_encoder, newest_student
from ibkd_retrieval.encoders.loading import find_model, load_sentence_transformer, short_model_name
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.evaluation.evaluate_index import USUAL_K, leaves_out_own
from ibkd_retrieval.evaluation.metric_names import parse_metric
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.evaluation.suite_results import RESULTS, MemberScores, SuiteFile, SuiteResult
from ibkd_retrieval.files import INDEXES, MODELS, sha256_file
from ibkd_retrieval.indexing.building.encoding import encoders_outside
from ibkd_retrieval.indexing.building.workers import ShardEncoders
from ibkd_retrieval.indexing.config import EncodingConfig
from ibkd_retrieval.indexing.format.layout import MANIFEST, is_index
from ibkd_retrieval.indexing.format.manifest import EncoderRecord, read_manifest
from ibkd_retrieval.progress import Progress, as_progress
from ibkd_retrieval.search.open import open_ranker
from ibkd_retrieval.search.options import RankerOptions, check_ranking

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

# Reported by the literature beside each set's own metric.
_SECOND_METRIC = "recall@100"
# Of the options of ranking; they stand in a system's name where they are given.
_NUMBERS = ("rerank_depth", "rerank_max_length", "recall")


def evaluate_suite(
    suite: str,
    options: RankerOptions | None = None,
    *,
    data_dir: Path | None = None,
    metrics: Sequence[str] = (),
    type: str = "flat",
    output: Path | None = None,
    k: int = USUAL_K,
    relevance_level: int | None = None,
    workers: int | None = None,
    worker_cpus: int | None = None,
    progress: bool | Progress = False,
) -> SuiteResult:
    """Index, search and score every data set of a suite.

    Finished work is reused. Failures are reported at the end. If queries are documents of the corpus, as in ArguAna and
    Quora, each is left out of its own results.

    Args:
        suite: "beir", "nano-beir", "lotte", "msmarco", "cqadupstack", or a folder of BEIR folders.
        options: the model and the ranking options. None is the newest student and an exact search. A cluster encodes
            too.
        data_dir: folder with local copies of the data sets.
        metrics: metric names. None is each data set's own metric and Recall@100.
        type: index type.
        output: the folder of the indexes and of suite.json. None is `indexes/SUITE`.
        k: results per query.
        relevance_level: lowest grade that counts as relevant. None is each data set's own.
        workers: encoder processes. None is this process alone, or on a cluster as many as it has room for.
        worker_cpus: cores of a process on a cluster. None is 1.
        progress: receives progress reports. True shows bars.

    Raises:
        UserError: the suite, the model, a metric or an option is unknown.

    Example:
        >>> evaluate_suite("beir", RankerOptions(model="models/mine")).averages()  # doctest: +SKIP
        {'ndcg@10': 0.41, 'recall@100': 0.62}
    """
    from ibkd_retrieval.indexing.faiss_binding import device_there, load_faiss

    options, progress = options or RankerOptions(), as_progress(progress)
    options = dataclasses.replace(options, device=device_there(options.device, progress))
    for name in metrics:
        parse_metric(name)
    _check(options, type, k)
    members = open_suite(suite, data_dir, progress)
    load_faiss()
    model = options.model or str(newest_student(MODELS))
    short = short_model_name(model)
    root = output or INDEXES / suite.strip("./").replace("/", "-")
    results = SuiteFile(root / RESULTS)
    progress.say(f"suite {suite}, {len(members)} data sets · model {model} · type {type} → {root}")
    # Sets over the same documents (MS MARCO and TREC DL) share their index.
    first: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for member in members:
        indexed = first.setdefault(member.corpus, member.name).replace("/", "-")
        folders[member.name] = root / "-".join([short, indexed, *([] if type == "flat" else [type])])
    encoder = _encoder(model, options, members, folders.values(), progress)
    encoding = EncodingConfig(cluster=options.cluster, workers=workers, worker_cpus=worker_cpus)
    encoders = encoders_outside(encoder, encoding, progress)
    settings = _settings(options, type, k, relevance_level, encoder.weight_hash)
    metrics = tuple(metrics) or tuple(dict.fromkeys((*(member.metric for member in members), _SECOND_METRIC)))
    run = _SuiteRun(results, settings, options, encoder, encoders, metrics, type, k, relevance_level, progress)
    result = SuiteResult(
        suite=suite,
        system=" ".join([short, *run.how()]),
        settings=settings,
        metrics=metrics,
        groups={member.name: member.group for member in members},
        members=(),
        failures={},
    )
    for member in members:
        try:
            scores = run.member(member, folders[member.name], result.system)
            result = dataclasses.replace(result, members=(*result.members, scores))
        except (UserError, WorkFailed) as error:
            progress.say(f"{member.name} is left out: {error}")
            result = dataclasses.replace(result, failures={**result.failures, member.name: str(error)})
        results.write(result)
    return result


def _check(options: RankerOptions, type: str, k: int) -> None:
    """Check the options before days of indexing, since a wrong one would fail every data set.

    Raises:
        UserError: the type, the number of results, a model or another option is unknown or out of range.
    """
    from ibkd_retrieval.indexing.families import family_named, family_options
    from ibkd_retrieval.indexing.families.family import check_range, check_recall
    from ibkd_retrieval.search.filters import parse_condition
    from ibkd_retrieval.search.lexical import check_engine

    known = family_options(family_named(type))
    check_ranking(options)
    if k < 1:
        raise UserError(f"The number of results must be at least 1, not {k}: ask for 1 or more.")
    params = options.search_params
    check_range(type, 1, nprobe=params.nprobe, ef_search=params.ef_search)
    check_range(type, 0, refine=params.refine)
    # A graph or lists may be searched with refinement whatever they were made with; exact vectors may not.
    taken = {*known, *(["refine"] if type != "flat" else [])}
    wrong = [f"`{name}`" for name, value in params.to_json().items() if value is not None and name not in taken]
    if wrong:
        raise UserError(f"An index of type {type} takes no {' or '.join(wrong)}: leave out, or give another `type`.")
    if options.recall is not None:
        check_recall(options.recall)
    if options.engine != "dense" or options.hybrid is not None:
        check_engine(options.lexical_engine, options.language)
    for condition in options.filters:
        if not condition.startswith("@"):
            parse_condition(condition)
        elif not Path(condition[1:]).is_file():
            raise UserError(f"There is no file {condition[1:]} of document ids for the filter {condition}.")
    for model in (options.rerank, options.query_model):
        if model is not None:
            find_model(model)


def _encoder(
    model: str, options: RankerOptions, members: Sequence[SuiteMember], folders: Iterable[Path], progress: Progress
) -> Encoder:
    """The encoder of all members: run as the indexes that are here were, else as was found best for documents."""
    from ibkd_retrieval.encoders.autotune.choice import sample_texts

    begun = next((record for folder in folders if (record := _made_by(folder)) is not None), None)
    backend, dtype = options.backend, options.dtype
    if begun is not None and (backend, dtype) == ("auto", "auto"):
        backend, dtype = begun.backend, begun.dtype

    return load_encoder(
        model,
        backend,
        dtype,
        lambda: sample_texts(document.content for document in open_corpus(members[0].corpus, progress).documents()),
        purpose="documents",
        progress=progress,
        device=options.device,
        pooling=options.pooling,
    )


def _made_by(folder: Path) -> EncoderRecord | None:
    """What encoded the index in a folder, finished or not; None where there is none that can be read."""
    from ibkd_retrieval.indexing.building.plan import begun_encoder

    if not (folder / MANIFEST).exists():
        return begun_encoder(folder)
    try:
        return read_manifest(folder).encoder
    except UserError:
        # A damaged index is reported as the failure of its data set.
        return None


def _settings(
    options: RankerOptions, type: str, k: int, relevance_level: int | None, weight_hash: str
) -> dict[str, Any]:
    """What decides the scores beside the index, the queries and the metric, as JSON has it.

    Models and files are told by their content too, since it may change under the same name.

    Raises:
        UserError: a model cannot be loaded.
    """
    chosen = dataclasses.asdict(options)
    chosen |= chosen.pop("search_params")
    for name in ("model", "device", "cluster", "exact_merge"):
        del chosen[name]
    lists = {name: list(value) for name, value in chosen.items() if isinstance(value, tuple)}
    files = [condition[1:] for condition in options.filters if condition.startswith("@")]
    return {
        "type": type,
        "k": k,
        "relevance_level": relevance_level,
        "weights_of_model": weight_hash,
        "weights_of_query_model": _weights_of_query_model(options),
        "weights_of_rerank": _weights_of_reranker(options),
        "sha256_of_filters": {file: sha256_file(file) for file in files},
        **chosen,
        **lists,
    }


def _weights_of_query_model(options: RankerOptions) -> str | None:
    if options.query_model is None:
        return None
    from ibkd_retrieval.encoders.weights import weight_hash

    return weight_hash(load_sentence_transformer(options.query_model, pooling=options.pooling))


def _weights_of_reranker(options: RankerOptions) -> str | None:
    if options.rerank is None:
        return None
    from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer

    return load_pair_scorer(options.rerank, max_length=options.rerank_max_length, device="cpu").weight_hash


@dataclasses.dataclass(frozen=True)
class _SuiteRun:
    """The settings that all members of a suite share."""

    results: SuiteFile
    settings: dict[str, Any]
    options: RankerOptions
    encoder: Encoder
    encoders: ShardEncoders | None
    metrics: tuple[str, ...]
    type: str
    k: int
    relevance_level: int | None
    progress: Progress

    def how(self) -> list[str]:
        """The words that tell this way of searching from another, for the system's name."""
        options, usual = self.options, RankerOptions()
        given = [(name, getattr(options, name)) for name in _NUMBERS if getattr(options, name) != getattr(usual, name)]
        given += [(name, value) for name, value in options.search_params.to_json().items() if value is not None]
        given += [("k", self.k)] if self.k != USUAL_K else []
        given += [("relevance_level", self.relevance_level)] if self.relevance_level is not None else []
        return [
            self.type,
            *([options.engine] if options.engine != "dense" else []),
            *([f"language-{options.language}"] if options.language != usual.language else []),
            *([f"hybrid-{options.hybrid}"] if options.hybrid else []),
            *(["-".join(["weights", *(f"{weight:g}" for weight in options.weights)])] if options.weights else []),
            *([f"rerank-{Path(options.rerank).name}"] if options.rerank else []),
            *([f"query-model-{Path(options.query_model).name}"] if options.query_model else []),
            *(f"{name.replace('_', '-')}-{value:g}" for name, value in given),
            *(f"filter-{condition}" for condition in options.filters),
            *(["exclude-self"] if options.exclude_self else []),
        ]

    def member(self, member: SuiteMember, folder: Path, system: str) -> MemberScores:
        """The scores of one data set, from what is known already or by whatever work is left.

        Raises:
            UserError: the data set cannot be had, or its index cannot be made or searched.
        """
        asked = cache(partial(open_queries, member.queries, need_judgements=True, progress=self.progress))
        # Those of a published data set are verified when they are fetched, so that its name is enough.
        what = asked().digest if Path(member.corpus).is_absolute() else member.queries
        if self._is_indexed(member, folder):
            manifest = sha256_file(folder / MANIFEST)
            known = self.results.known(system, self.settings, member.name, manifest, what, self.metrics)
            if known is not None:
                self.progress.say(f"{member.name}: scored before, from {folder}")
                return known
        queries = asked()  # Before an index is made for them.
        if not self._is_indexed(member, folder):
            self._index(member, folder)
        own = self.options.exclude_self or leaves_out_own(queries, self.progress)
        options = dataclasses.replace(self.options, model=None, exclude_self=own)
        ranker = open_ranker([folder], options, known={self.encoder.weight_hash: self.encoder}, progress=self.progress)
        level = member.relevance_level if self.relevance_level is None else self.relevance_level
        found = evaluate_run(
            ranker.search_batch(queries.queries, self.k, self.progress), queries.judgements, self.metrics, level
        )
        return MemberScores(
            name=member.name,
            group=member.group,
            scores=found.scores,
            queries=len(found.query_ids),
            missing=found.missing,
            judged_share=found.judged_share,
            relevance_level=level,
            manifest_sha256=sha256_file(folder / MANIFEST),
            asked=what,
        )

    def _is_indexed(self, member: SuiteMember, folder: Path) -> bool:
        """Whether the folder holds the finished index of this corpus by this model."""
        if not (folder / MANIFEST).exists():
            return False
        manifest = read_manifest(folder)
        same_model = manifest.encoder.makes_the_vectors_of(EncoderRecord.of(self.encoder))
        return same_model and manifest.corpus.name == member.corpus

    def _index(self, member: SuiteMember, folder: Path) -> None:
        from ibkd_retrieval.indexing.build import build_index

        self.progress.say(f"{member.name} → {folder}")
        build_index(
            open_corpus(member.corpus, self.progress),
            self.encoder,
            folder,
            family=self.type,
            resume=is_index(folder),
            processes=self.encoders,
            progress=self.progress,
        )
