"""The tokenizers of llama.py against the published encoders, on the published vocabularies."""

import random
import shutil
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

import pytest
import sentencepiece
from llama_models.llama3.tokenizer import Tokenizer as Reference
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

from support.tokenizer import Tokenizer

LLAMA3 = Path(find_spec("llama_models").origin).parent / "llama3/tokenizer.model"
MISTRAL = Path(find_spec("mistral_common").origin).parent / "data"
SENTENCEPIECE = {"v1": MISTRAL / "tokenizer.model.v1", "v3": MISTRAL / "mistral_instruct_tokenizer_240323.model.v3"}


def texts(n=2200, seed=0):
    """Strings of random fragments: words, numbers, coordinates, spaces, many scripts, things that look like special tokens."""
    rng = random.Random(seed)
    planes = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE00), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
              (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x1, 0x20), (0x2000, 0x2070), (0xE000, 0xE010), (0x10000, 0x10FFFE)]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_7|>", "<s>",
               "</s>", "<unk>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<0x41>", "<0x0A>", "<|", "|>", "<pad>"]
    words = "the nose tip left eye's corner It'S we'll THEY'RE horse_body keypoint (x, y): where? naïve ﬁne e\u0301 ß".split()
    makers = [
        lambda: rng.choice(words) + rng.choice(["", " ", ", ", ". ", "\n"]),
        lambda: "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(1, 8))),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 12))),
        lambda: f"[0.{rng.randrange(1000):03},0.{rng.randrange(1000):03}]",
        lambda: rng.choice([" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]) * rng.randrange(1, 30),
        lambda: rng.choice(special),
    ]
    return ["".join(rng.choice(makers)() for _ in range(rng.randrange(1, 9))) for _ in range(n)]


TEXTS = texts()


@pytest.fixture(scope="module")
def llama3():
    return Tokenizer(LLAMA3)


@pytest.fixture(scope="module", params=SENTENCEPIECE)
def pieces(request):
    """A sentencepiece vocabulary: ours, the library's own processor, the file."""
    file = SENTENCEPIECE[request.param]
    return Tokenizer(file), sentencepiece.SentencePieceProcessor(model_file=str(file)), file


def test_tiktoken_equals_the_reference(llama3):
    reference = Reference(LLAMA3)
    assert (llama3.bos_id, llama3.eos_id, llama3.vocab_size) == (reference.bos_id, reference.eos_id, reference.n_words)
    for text in TEXTS:
        ids = llama3.encode(text)
        assert ids == reference.encode(text, bos=False, eos=False) == llama3.encode_continuation(text)
        assert max(ids) < reference.bos_id  # no special token
        assert llama3.decode(ids) == text
    for name, i in reference.special_tokens.items():
        assert llama3.decode([i]) == name


@pytest.mark.parametrize("text", ["", " " * 60_001, "a" * 50_000, "b" * 25_000 + " c" + "\n" * 25_001 + "d", "ab " * 140_000])
def test_long_runs_equal_the_reference(llama3, text):
    assert llama3.encode(text) == Reference(LLAMA3).encode(text, bos=False, eos=False)


def test_tiktoken_numbers(llama3):
    assert [llama3.decode([i]) for i in llama3.digit_ids] == list("0123456789")
    assert [llama3.decode([i]) for i in llama3.digit3_ids] == [f"{i:03}" for i in range(1000)]


def test_sentencepiece_equals_the_references(pieces):
    ours, library, file = pieces
    mistral = SentencePieceTokenizer(str(file))
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (mistral.bos_id, mistral.eos_id, mistral.n_words)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == library.encode(text) == mistral.encode(text, bos=False, eos=False)
        assert not any(library.is_control(i) or library.is_unknown(i) for i in ids)
        assert ours.decode(ids) == text


def test_sentencepiece_continuation_has_no_space_in_front(pieces):
    ours, library, _ = pieces
    newline = library.encode("\n")  # a byte token, which merges with nothing: what follows it is a continuation
    for text in TEXTS:
        assert newline + ours.encode_continuation(text) == library.encode("\n" + text)
    assert library.id_to_piece(ours.encode_continuation("[0.")) == ["[", "0", "."]


def test_sentencepiece_numbers(pieces):
    ours, library, _ = pieces
    assert library.id_to_piece(ours.digit_ids) == list("0123456789")
    assert ours.digit3_ids is None  # these vocabularies write every digit as a token


def test_found_in_a_model_folder_and_known_by_content(tmp_path, pieces):
    for folder, name, file in (("a", "tokenizer.model", pieces[2]), ("b", "tokenizer.model.v3", pieces[2]),
                               ("c", "original/tokenizer.model", LLAMA3), ("d", "tokenizer.model", LLAMA3)):
        target = tmp_path / folder / name
        target.parent.mkdir(parents=True)
        shutil.copyfile(file, target)
        assert Tokenizer.from_pretrained(tmp_path / folder).vocab_size == (128256 if file == LLAMA3 else pieces[1].vocab_size())


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.model in"):
        Tokenizer.from_pretrained(tmp_path)
    file = tmp_path / "tokenizer.model"
    lines = LLAMA3.read_bytes().splitlines(keepends=True)
    no_digits = b"".join(b64encode(bytes([b])) + b" %d\n" % i for i, b in enumerate(b for b in range(256) if b not in b"0123456789"))
    for data, message in ((b"", "neither"), (b"{}", "neither"), (b"".join(lines[:99]) + b"oops\n", "neither"),
                          (SENTENCEPIECE["v1"].read_bytes()[:5000], "neither"), (no_digits, "no single token for each digit")):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            Tokenizer.from_pretrained(tmp_path)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
