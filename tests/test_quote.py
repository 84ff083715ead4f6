"""support/quote.py: whatever is quoted is short and can be printed."""

from hypothesis import given
from hypothesis import strategies as st

from support.quote import LONGEST, LONGEST_MESSAGE, cut, quote, shorten

DEEP = []
for _ in range(900):
    DEEP = [DEEP]
anything = st.recursive(
    st.text() | st.integers() | st.floats() | st.binary() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)


@given(anything | st.just(DEEP) | st.just("x" * 10**6) | st.just("\ud800\x1b\u202e" * 99))
def test_a_quotation_is_short_and_printable(value):
    for text in (quote(value), cut(value)):
        assert len(text) <= LONGEST and text.isprintable()
        text.encode()


@given(st.text(st.characters(categories=("L", "Nd")), max_size=LONGEST))
def test_a_short_text_stays_as_it_is(text):
    assert cut(text) == text
    assert quote(text) in (repr(text), quote(text[:LONGEST]))


def test_control_characters_are_escaped():
    assert cut("a\x1b[31m\u202eb\n  c") == r"a\x1b[31m\u202eb c"
    assert quote("it's") == repr("it's")


@given(st.text() | st.just("x" * 10**5) | st.lists(st.just("\ud800\x1b" * 300)).map(" ".join))
def test_a_message_is_one_short_line_of_short_words(text):
    line = shorten(text)
    assert len(line) <= LONGEST_MESSAGE and line.isprintable()
    assert all(len(word) <= LONGEST for word in line.split())


@given(st.lists(st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=9), max_size=9))
def test_a_short_message_stays_as_it_is(words):
    assert shorten(" \n ".join(words)) == " ".join(words)
