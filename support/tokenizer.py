"""The tokenizers of the Llama family.

Llama 3 has a tiktoken vocabulary; Vicuna and Mistral have sentencepiece ones.
"""

import re
from base64 import b64decode
from pathlib import Path

import sentencepiece
import tiktoken

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


class Tokenizer:
    """A tiktoken or a sentencepiece vocabulary, told apart by the file's content.

    Special tokens never come out of text: `<|end_of_text|>` or `</s>` in a description is encoded
    as those characters. ValueError naming the file if it is damaged or has no digits.
    """

    def __init__(self, file):
        content = Path(file).read_bytes()
        self.ranks = None
        try:
            # A line of a tiktoken file is a token in base64 and its rank.
            if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content):
                self.read_tiktoken(content, Path(file).name)
            else:
                self.read_sentencepiece(content)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{file} is neither a tiktoken nor a sentencepiece vocabulary ({error}): "
                "download tokenizer.model again"
            ) from None
        self.digit_ids = self.find_tokens([f"{i}" for i in range(10)])
        if self.digit_ids is None:
            raise ValueError(
                f"{file} has no single token for each digit: coordinates cannot be written"
            )
        self.digit3_ids = self.find_tokens([f"{i:03}" for i in range(1000)])

    def read_tiktoken(self, content, name):
        self.ranks = {}
        for line in content.splitlines():
            token, rank = line.split()
            self.ranks[b64decode(token)] = int(rank)
        special = {text: len(self.ranks) + i for i, text in enumerate(LLAMA3_SPECIAL)}
        self.bpe = tiktoken.Encoding(
            name, pat_str=LLAMA3_SPLIT, mergeable_ranks=self.ranks, special_tokens=special
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

    @classmethod
    def from_pretrained(cls, path):
        """Read the vocabulary of a model folder."""
        return cls(find_vocabulary(path))

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
        return self.bpe.decode(ids) if self.ranks else self.start.decode(ids)


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
