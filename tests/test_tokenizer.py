"""support/tokenizer.py against the published encoders, on the published vocabularies."""

import io
import json
import random
import shutil
from base64 import b64encode

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.llama3.tokenizer import Tokenizer as Reference
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

from helpers import LLAMA3, VOCABULARIES, one_line
from support.tokenizer import Tokenizer

SENTENCEPIECE = {name: VOCABULARIES[name] for name in ("v1", "v3")}
PLANES = [
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x370, 0x600),
    (0x900, 0xE00),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1FAFF),
    (0x1, 0x20),
    (0x2000, 0x2070),
    (0xE000, 0xE010),
    (0x10000, 0x10FFFE),
]
SPECIAL = """
    <|begin_of_text|> <|end_of_text|> <|eot_id|> <|python_tag|> <|reserved_special_token_7|>
    <s> </s> <unk> [INST] [/INST] [TOOL_CALLS] <0x41> <0x0A> <| |> <pad>
""".split()
WORDS = """
    the nose tip left eye's corner It'S we'll THEY'RE horse_body keypoint (x, y): where?
    naïve ﬁne e\u0301 ß
""".split()
SPACES = [" ", "\n", "\t", "\r\n", "\u00a0", "\u3000"]


def draw_word(rng):
    return rng.choice(WORDS) + rng.choice(["", " ", ", ", ". ", "\n"])


def draw_script(rng):
    return "".join(chr(rng.randrange(*rng.choice(PLANES))) for _ in range(rng.randrange(1, 8)))


def draw_number(rng):
    return str(rng.randrange(10 ** rng.randrange(1, 12)))


def draw_coordinates(rng):
    return f"[0.{rng.randrange(1000):03},0.{rng.randrange(1000):03}]"


def draw_spaces(rng):
    return rng.choice(SPACES) * rng.randrange(1, 30)


def draw_special(rng):
    return rng.choice(SPECIAL)


def draw_texts(n=2200, seed=0):
    """Strings of random fragments: many scripts, and what looks like special tokens, among them."""
    rng, texts = random.Random(seed), []
    kinds = [draw_word, draw_script, draw_number, draw_coordinates, draw_spaces, draw_special]
    for _ in range(n):
        texts.append("".join(rng.choice(kinds)(rng) for _ in range(rng.randrange(1, 9))))
    return texts


TEXTS = draw_texts()


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
    assert llama3.bos_id == reference.bos_id
    assert llama3.eos_id == reference.eos_id
    assert llama3.vocab_size == reference.n_words
    for text in TEXTS:
        ids = llama3.encode(text)
        assert ids == reference.encode(text, bos=False, eos=False)
        assert ids == llama3.encode_continuation(text)
        # No special token.
        assert max(ids) < reference.bos_id
        assert llama3.decode(ids) == text
    for name, i in reference.special_tokens.items():
        assert llama3.decode([i]) == name


@pytest.mark.parametrize(
    "text",
    ["", " " * 60_001, "a" * 50_000, "b" * 25_000 + " c" + "\n" * 25_001 + "d", "ab " * 140_000],
)
def test_long_runs_equal_the_reference(llama3, text):
    assert llama3.encode(text) == Reference(LLAMA3).encode(text, bos=False, eos=False)


def test_tiktoken_numbers(llama3):
    assert [llama3.decode([i]) for i in llama3.digit_ids] == list("0123456789")
    assert [llama3.decode([i]) for i in llama3.digit3_ids] == [f"{i:03}" for i in range(1000)]


def test_sentencepiece_equals_the_references(pieces):
    ours, library, file = pieces
    mistral = SentencePieceTokenizer(str(file))
    assert ours.bos_id == mistral.bos_id
    assert ours.eos_id == mistral.eos_id
    assert ours.vocab_size == mistral.n_words
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == library.encode(text) == mistral.encode(text, bos=False, eos=False)
        assert not any(library.is_control(i) or library.is_unknown(i) for i in ids)
        assert ours.decode(ids) == text


def test_sentencepiece_continuation_has_no_space_in_front(pieces):
    ours, library, _ = pieces
    # A byte token, which merges with nothing: what follows it is a continuation.
    newline = library.encode("\n")
    for text in TEXTS:
        assert newline + ours.encode_continuation(text) == library.encode("\n" + text)
    assert library.id_to_piece(ours.encode_continuation("[0.")) == ["[", "0", "."]


def test_sentencepiece_numbers(pieces):
    ours, library, _ = pieces
    assert library.id_to_piece(ours.digit_ids) == list("0123456789")
    # These vocabularies write every digit as a token.
    assert ours.digit3_ids is None


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.model.v3"])
def test_sentencepiece_is_found_in_a_model_folder(tmp_path, pieces, name):
    _, library, file = pieces
    shutil.copyfile(file, tmp_path / name)
    assert Tokenizer.from_pretrained(tmp_path).vocab_size == library.vocab_size()


@pytest.mark.parametrize("name", ["tokenizer.model", "original/tokenizer.model"])
def test_tiktoken_is_found_in_a_model_folder_and_known_by_content(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copyfile(LLAMA3, tmp_path / name)
    assert Tokenizer.from_pretrained(tmp_path).vocab_size == 128256


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.model in") as error:
        Tokenizer.from_pretrained(tmp_path)
    one_line(error)


def write_tiktoken(tokens):
    lines = [b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    return b"".join(lines)


def train_without_digits():
    """A sentencepiece vocabulary of letters alone."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["left eye right eye nose tip"] * 9),
        model_writer=model,
        model_type="char",
        vocab_size=64,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


DAMAGED_LINE = b"".join(LLAMA3.read_bytes().splitlines(keepends=True)[:99]) + b"oops\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "neither"),
        (b"{}", "neither"),
        (DAMAGED_LINE, "neither"),
        (SENTENCEPIECE["v1"].read_bytes()[:5000], "neither"),
        (train_without_digits(), "no single token for each digit"),
    ],
    ids=["empty", "json", "damaged line", "cut", "no digits"],
)
def test_files_that_are_refused(tmp_path, content, message):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.from_pretrained(tmp_path)
    assert str(file) in one_line(error)


BYTES = [(bytes([b]), b) for b in range(256)]
PAIRS = [(b"th", 256), (b"the", 257), (b" the", 258)]


def write_ranks(file, tokens):
    file.write_bytes(b"".join(b64encode(token) + b" %d\n" % rank for token, rank in tokens))


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 258), st.binary(max_size=3), st.integers(0, 2**40)), max_size=3
    ),
    dropped=st.sets(st.integers(0, 258), max_size=2),
    shuffle=st.randoms(),
)
def test_damaged_ranks_are_refused_before_tiktoken_panics(
    changes, dropped, shuffle, tmp_path_factory
):
    """tiktoken's PanicException is no Exception: it would pass every except clause."""
    tokens = BYTES + PAIRS
    for place, token, rank in changes:
        tokens[place] = token, rank
    tokens = [entry for place, entry in enumerate(tokens) if place not in dropped]
    shuffle.shuffle(tokens)
    file = tmp_path_factory.mktemp("ranks") / "tokenizer.model"
    write_ranks(file, tokens)
    try:
        tokenizer = Tokenizer(file)
    except ValueError as error:
        assert str(file) in str(error) and str(error).isprintable()
        return
    text = "the\0?" + "".join(map(chr, range(256)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "tokens, message",
    [
        (BYTES[:-1] + [(b"ab", 255)], "1 bytes have no token, 255 among them"),
        (BYTES + [(b"ab", 256), (b"cd", 256)], "ranks are not 0, 1, 2"),
        (BYTES + [(b"ab", 2**40)], "ranks are not 0, 1, 2"),
        (BYTES + [(b"a", 256)], "line 257 repeats a token"),
    ],
)
def test_what_is_wrong_with_ranks_is_said(tokens, message, tmp_path):
    file = tmp_path / "tokenizer.model"
    write_ranks(file, tokens)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer(file)
    assert str(file) in one_line(error)


def write_language_model(folder, file, **entries):
    folder.mkdir()
    shutil.copyfile(file, folder / "tokenizer.model")
    (folder / "config.json").write_text(json.dumps(entries))
    return folder


PUBLISHED = {
    "llama3": {"vocab_size": 128256, "bos_token_id": 128000},
    "v1": {"vocab_size": 32000, "bos_token_id": 1},
    "v3": {"vocab_size": 32768, "bos_token_id": 1},
}


@pytest.mark.parametrize("model", PUBLISHED)
@pytest.mark.parametrize("vocabulary", PUBLISHED)
def test_a_tokenizer_of_another_model_is_refused(model, vocabulary, tmp_path):
    folder = write_language_model(tmp_path / "llm", VOCABULARIES[vocabulary], **PUBLISHED[model])
    if model == vocabulary:
        assert Tokenizer.from_pretrained(folder).vocab_size == PUBLISHED[model]["vocab_size"]
        return
    with pytest.raises(ValueError, match="they are of two models") as error:
        Tokenizer.from_pretrained(folder)
    for name in ("tokenizer.model", "config.json"):
        assert str(folder / name) in one_line(error)


def test_an_embedding_may_have_unused_rows(tmp_path):
    entries = PUBLISHED["v1"] | {"vocab_size": 32064}
    folder = write_language_model(tmp_path / "llm", VOCABULARIES["v1"], **entries)
    tokenizer = Tokenizer.from_pretrained(folder)
    ids = tokenizer.encode("left eye")
    assert tokenizer.decode([*ids, 32000, 32063]) == "left eye"
