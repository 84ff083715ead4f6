"""The tokenizers of the Llama family: Llama 3's tiktoken vocabulary and sentencepiece ones (Vicuna, Mistral)."""

import re
from base64 import b64decode
from pathlib import Path

import sentencepiece
import tiktoken

# As published in llama-models (models/llama3/tokenizer.py).
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
                  "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
                  "<|eot_id|>", "<|python_tag|>", "<|image|>", *(f"<|reserved_special_token_{i}|>" for i in range(2, 246))]


class Tokenizer:
    """Llama 3's tiktoken vocabulary or a sentencepiece one (Vicuna, Mistral), told apart by the file's content.

    Special tokens never come out of text: `<|end_of_text|>` or `</s>` in a description is encoded as those characters.
    """

    def __init__(self, file):
        data = Path(file).read_bytes()
        self.ranks = None
        try:
            if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", data):  # one token a line: base64, rank
                self.ranks = {b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
                special = {name: len(self.ranks) + i for i, name in enumerate(LLAMA3_SPECIAL)}
                self.bpe = tiktoken.Encoding(Path(file).name, pat_str=LLAMA3_SPLIT, mergeable_ranks=self.ranks,
                                             special_tokens=special)
                self.bos_id, self.eos_id = special["<|begin_of_text|>"], special["<|end_of_text|>"]
                self.vocab_size = self.bpe.n_vocab
            else:
                self.start = sentencepiece.SentencePieceProcessor(model_proto=data)
                # Protobuf merges what is appended, here normalizer_spec.add_dummy_prefix = false: no space in front.
                self.inside = sentencepiece.SentencePieceProcessor(model_proto=data + b"\x1a\x02\x18\x00")
                self.bos_id, self.eos_id = self.start.bos_id(), self.start.eos_id()
                self.vocab_size = self.start.vocab_size()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{file} is neither a tiktoken nor a sentencepiece vocabulary ({error}): "
                             "download tokenizer.model again") from None
        self.digit_ids = self.pieces([f"{i}" for i in range(10)])
        if self.digit_ids is None:
            raise ValueError(f"{file} has no single token for each digit: coordinates cannot be written")
        self.digit3_ids = self.pieces([f"{i:03}" for i in range(1000)])

    @classmethod
    def from_pretrained(cls, path):
        """Read tokenizer.model (also in original/, or as tokenizer.model.v3) of a model folder."""
        for name in ("tokenizer.model", "original/tokenizer.model", "tokenizer.model.v3"):
            if (file := Path(path) / name).is_file():
                return cls(file)
        raise FileNotFoundError(f"no tokenizer.model in {path} or {Path(path) / 'original'}: copy the official one there")

    def pieces(self, texts):
        """Ids of the tokens that are exactly these texts; None if the vocabulary lacks one."""
        if self.ranks:
            ids = [self.ranks.get(text.encode()) for text in texts]
            return None if None in ids else ids
        ids = self.start.piece_to_id(texts)
        return None if self.start.unk_id() in ids else ids

    def encode(self, text):
        """Ids of a text from its start, without the start token."""
        if self.ranks:
            return [token for part in split_runs(text) for token in self.bpe.encode_ordinary(part)]
        return self.start.encode(text)

    def encode_continuation(self, text):
        """Ids of a text that continues an earlier one: sentencepiece adds no space in front."""
        return self.encode(text) if self.ranks else self.inside.encode(text)

    def decode(self, ids):
        return self.bpe.decode(ids) if self.ranks else self.start.decode(ids)


def split_runs(text, block=400_000, run=25_000):
    """Cut a text where the Llama 3 reference does: tiktoken fails on longer texts and on longer runs of (non-)spaces."""
    for start in range(0, len(text), block):
        part = ""
        for piece in re.findall(rf"\s{{1,{run}}}|\S{{1,{run}}}", text[start:start + block]):
            if part and part[-1].isspace() == piece[0].isspace():  # the run goes on: the limit cut it here
                yield part
                part = ""
            part += piece
        yield part
