"""The tokenizers of the Llama family.

Llama 3 has a tiktoken vocabulary; Vicuna and Mistral have sentencepiece ones.
"""

import re
from base64 import b64decode
from pathlib import Path

import sentencepiece
import tiktoken

from support.configs import read_config
from support.digest import compute_fingerprint
from support.quote import cut

# As published in llama-models (models/llama3/tokenizer.py).
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    "<|image|>",
]
LLAMA3_SPECIAL += [f"<|reserved_special_token_{i}|>" for i in range(2, 246)]
# The longest text, and the longest run of spaces or of others, that tiktoken takes.
LONGEST_TEXT, LONGEST_RUN = 400_000, 25_000
# Rows of an embedding behind the vocabulary: some models fill it up to a multiple of 256.
MOST_UNUSED = 255


class Tokenizer:
    """A tiktoken or a sentencepiece vocabulary, told apart by the file's content.

    Special tokens never come out of text: `<|end_of_text|>` or `</s>` in a description is encoded
    as those characters. ValueError naming the file if it is damaged or has no digits.
    """

    def __init__(self, file):
        self.file = Path(file)
        content = self.file.read_bytes()
        self.fingerprint = compute_fingerprint([content])
        self.ranks = None
        try:
            # A line of a tiktoken file is a token in base64 and its rank.
            if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content):
                self.ranks = read_ranks(content)
                self.prepare_tiktoken()
            else:
                self.read_sentencepiece(content)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{file} is neither a tiktoken nor a sentencepiece vocabulary ({cut(error)}): "
                "download tokenizer.model again"
            ) from None
        self.digit_ids = self.find_tokens([f"{i}" for i in range(10)])
        if self.digit_ids is None:
            raise ValueError(
                f"{file} has no single token for each digit: coordinates cannot be written"
            )
        self.digit3_ids = self.find_tokens([f"{i:03}" for i in range(1000)])

    def prepare_tiktoken(self):
        special = {text: len(self.ranks) + i for i, text in enumerate(LLAMA3_SPECIAL)}
        self.bpe = tiktoken.Encoding(
            self.file.name,
            pat_str=LLAMA3_SPLIT,
            mergeable_ranks=self.ranks,
            special_tokens=special,
        )
        self.bos_id = special["<|begin_of_text|>"]
        self.eos_id = special["<|end_of_text|>"]
        self.vocab_size = self.bpe.n_vocab

    def read_sentencepiece(self, content):
        self.start = sentencepiece.SentencePieceProcessor(model_proto=content)
        # Protobuf merges what is appended, here normalizer_spec.add_dummy_prefix = false: no space
        # in front.
        no_prefix = content + b"\x1a\x02\x18\x00"
        self.inside = sentencepiece.SentencePieceProcessor(model_proto=no_prefix)
        self.bos_id = self.start.bos_id()
        self.eos_id = self.start.eos_id()
        self.vocab_size = self.start.vocab_size()
        if self.bos_id < 0 or self.eos_id < 0:
            raise ValueError("it has no token for the start or for the end of a text")

    @classmethod
    def from_pretrained(cls, path):
        """Read the vocabulary of a model folder.

        ValueError if it is of another model than the config.json beside it.
        """
        tokenizer = cls(find_vocabulary(path))
        check_embedding(tokenizer, Path(path) / "config.json")
        return tokenizer

    def find_tokens(self, texts):
        """Ids of the tokens that are exactly these texts; None if the vocabulary lacks one."""
        if self.ranks:
            ids = [self.ranks.get(text.encode()) for text in texts]
            return None if None in ids else ids
        ids = self.start.piece_to_id(texts)
        return None if self.start.unk_id() in ids else ids

    def encode(self, text):
        """Ids of a text from its start, without the start token."""
        if not self.ranks:
            return self.start.encode(text)
        ids = []
        for part in split_runs(text):
            ids += self.bpe.encode_ordinary(part)
        return ids

    def encode_continuation(self, text):
        """Ids of a text that continues an earlier one: sentencepiece adds no space in front."""
        return self.encode(text) if self.ranks else self.inside.encode(text)

    def decode(self, ids):
        # An embedding may have unused rows behind the vocabulary.
        ids = [i for i in ids if i < self.vocab_size]
        return self.bpe.decode(ids) if self.ranks else self.start.decode(ids)


def read_ranks(content):
    """{token: rank} of a tiktoken file, of which tiktoken itself panics at a damaged one."""
    ranks = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise ValueError(f"line {number} is not a token and its rank") from None
        if len(ranks) < number:
            raise ValueError(f"line {number} repeats a token")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"its {len(ranks)} ranks are not 0, 1, 2 and so on, each once")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{len(missing)} bytes have no token, {missing[0]} among them")
    return ranks


def check_embedding(tokenizer, path):
    """ValueError if a vocabulary does not fit the language model of a config.json, if any."""
    if not path.is_file():
        return
    config = read_config(path, {})
    rows, start = config.get("vocab_size"), config.get("bos_token_id")
    problem = None
    # Whether they are numbers is checked with the model.
    if type(rows) is int and tokenizer.vocab_size > rows:
        problem = f"has {tokenizer.vocab_size} tokens, {path} vocab_size {rows}"
    elif type(start) is int and start != tokenizer.bos_id:
        problem = f"starts a text with token {tokenizer.bos_id}, {path} with {start}"
    elif type(start) is type(rows) is int and rows - tokenizer.vocab_size > MOST_UNUSED:
        problem = f"has only {tokenizer.vocab_size} tokens, {path} vocab_size {rows}"
    if problem:
        raise ValueError(
            f"{tokenizer.file} {problem}: they are of two models, copy the tokenizer.model of this "
            "one there"
        )


def find_vocabulary(path):
    """tokenizer.model (also in original/, or as tokenizer.model.v3) of a model folder."""
    for name in ("tokenizer.model", "original/tokenizer.model", "tokenizer.model.v3"):
        file = Path(path) / name
        if file.is_file():
            return file
    original = Path(path) / "original"
    raise FileNotFoundError(
        f"no tokenizer.model in {path} or {original}: copy the official one there"
    )


def split_runs(text):
    """Cut a text where the Llama 3 reference does: tiktoken fails on what is longer."""
    runs = rf"\s{{1,{LONGEST_RUN}}}|\S{{1,{LONGEST_RUN}}}"
    for start in range(0, len(text), LONGEST_TEXT):
        part = ""
        for run in re.findall(runs, text[start:start + LONGEST_TEXT]):
            # Two neighbours of one kind are one run, which the limit cut.
            if part and part[-1].isspace() == run[0].isspace():
                yield part
                part = ""
            part += run
        yield part
