"""The digit codec of capellm.py against closed forms, on the published vocabularies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capellm import Codec
from helpers import one_line


@pytest.mark.parametrize(
    "name, K", [("llama3", 3), ("llama3", 1), ("v1", 3), ("v3", 3), ("tiny", 3)]
)
def test_all_codes(tokenizers, name, K):
    tokenizer = tokenizers[name]
    codec = Codec(tokenizer, K)
    for n in range(1000):
        digits = codec.digits(n / 1000)
        assert digits == ([n] if K == 1 else [n // 100, n // 10 % 10, n % 10])
        assert codec.value(digits) == n / 1000
        *ids, end = codec.encode(n / 1000, 0.25)
        assert end == tokenizer.eos_id
        assert tokenizer.decode(ids).strip() == f"[0.{n:03},0.250]"


@pytest.mark.parametrize(
    "name, K", [("llama3", 3), ("llama3", 1), ("v1", 3), ("v3", 3), ("tiny", 3)]
)
def test_digits_are_those_of_coordinates(tokenizers, name, K):
    """By their place in the text, of answers one after the other: also if digits and brackets'
    zeros are the same tokens."""
    tokenizer = tokenizers[name]
    codec = Codec(tokenizer, K)
    ids, expected = [], []
    for x, y in ((0.0, 0.0), (0.123, 0.05), (0.9, 0.009)):
        answer = codec.encode(x, y)
        places = torch.zeros(len(answer), dtype=torch.bool)
        start = len(codec.open)
        places[start:start + K] = True
        start += K + len(codec.comma)
        places[start:start + K] = True
        ids += answer
        expected += places.tolist()
        assert [i for i, is_digit in zip(answer, places, strict=True) if is_digit] == [
            codec.ids[digit] for digit in codec.digits(x) + codec.digits(y)
        ]
    assert codec.is_digit(torch.tensor(ids)).tolist() == expected


@pytest.mark.parametrize("name", ["v1", "v3", "tiny"])
def test_three_digit_tokens_are_refused_where_there_are_none(tokenizers, name):
    with pytest.raises(ValueError, match="K = 1") as error:
        Codec(tokenizers[name], 1)
    one_line(error)


@pytest.mark.parametrize("K", [1, 3])
@settings(deadline=None)
@given(y=st.floats(0, 0.9995, exclude_max=True))
def test_codec_is_exact_to_half_a_thousandth(tokenizers, K, y):
    codec = Codec(tokenizers["llama3"], K)
    for number, rounding in ((y, 1e-12), (np.float32(y), 1e-7)):
        if Codec.has_code(number):
            value = codec.value(codec.digits(number))
            assert abs(value - float(number)) <= 0.0005 + rounding


@settings(deadline=None)
@given(y=st.one_of(st.floats(max_value=-1e-300), st.floats(0.9995)))
def test_outside_has_no_code(tokenizers, y):
    codec = Codec(tokenizers["llama3"])
    assert not codec.has_code(y)
    with pytest.raises(ValueError, match="has no code"):
        codec.encode(0.5, y)


def test_ends_of_the_range(tokenizers):
    codec = Codec(tokenizers["llama3"])
    assert codec.digits(np.nextafter(0.9995, 0)) == [9, 9, 9]
    assert codec.digits(-0.0) == [0, 0, 0]
    assert codec.digits(0.0005) == [0, 0, 1]
    assert codec.digits(0.00049) == [0, 0, 0]
    for y in (float("nan"), float("inf"), -float("inf"), 0.9995, 1.0, -1e-9):
        assert not codec.has_code(y)
