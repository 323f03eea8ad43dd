"""Tiny random models on disk: real architectures and tokenizers, no downloaded weights."""

from pathlib import Path

import numpy as np
import torch

_WORDS = """
river bank water boat fish lake rain storm cloud wind sun snow stone hill tree leaf root bird nest egg query
index vector model train step batch loss rate token text word page book print paper ink pen read write bread
milk cheese salt oil soup meat rice bean corn apple plum pear grape wine tea cup dish oven pan wheel road car
train bus track speed brake fuel engine
"""
WORDS = _WORDS.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def sentences(count: int, seed: int = 0, longest: int = 14) -> list[str]:
    """Different sentences, each mostly about one of the four topics of WORDS."""
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        topic = int(generator.integers(0, 4)) * (len(WORDS) // 4)
        picks = generator.integers(0, 20, size=generator.integers(3, longest))
        found[" ".join(WORDS[(topic + int(pick)) % len(WORDS)] for pick in picks) + f" {len(found)}"] = None
    return list(found)


def tokenizer(kind: str = "bert", lowercase: bool = True):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [str(digit) for digit in range(10)]
    pieces = [*letters, *("##" + letter for letter in letters), ".", ",", ":", "?", "A", "B"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *pieces, *WORDS]))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        # MPNet and RoBERTa count positions from behind the padding id.
        model_max_length=64 if kind == "bert" else 10**30,
    )


def transformer(kind: str = "bert", seed: int = 0, layers: int = 4, hidden: int = 32):
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel, RobertaConfig, RobertaModel

    shape = {
        "vocab_size": len(tokenizer(kind)),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64 if kind == "bert" else 66,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    torch.manual_seed(seed)
    config, model = {
        "bert": (BertConfig, BertModel),
        "mpnet": (MPNetConfig, MPNetModel),
        "roberta": (RobertaConfig, RobertaModel),
    }[kind]
    return model(config(**shape)).eval()


def save_plain_transformer(folder: Path, kind: str = "bert", seed: int = 0, **shape: int) -> Path:
    transformer(kind, seed, **shape).save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder


def save_sentence_transformer(
    folder: Path,
    kind: str = "bert",
    *,
    seed: int = 0,
    prompts: dict[str, str] | None = None,
    pooling: str = "mean",
    include_prompt: bool = True,
    normalize: bool = True,
    do_lower_case: bool = False,
    similarity: str = "cosine",
    **shape: int,
) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    plain = folder.with_name(folder.name + "-plain")
    save_plain_transformer(plain, kind, seed, **shape)
    if do_lower_case:
        tokenizer(kind, lowercase=False).save_pretrained(plain)
    modules = [Transformer(str(plain), do_lower_case=do_lower_case)]
    modules.append(Pooling(modules[0].get_embedding_dimension(), pooling, include_prompt=include_prompt))
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu", similarity_fn_name=similarity)
    model.save(str(folder), create_model_card=False)
    return folder
