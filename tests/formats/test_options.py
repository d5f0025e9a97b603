"""Options written on the command line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact import CP, Format, TensorTrain, Tucker
from tensorfact.errors import FormatError
from tensorfact.formats import parse_format


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("tt:rank=16", TensorTrain(16)),
        ("tucker:rank=(4,8,8)", Tucker((4, 8, 8))),
        ("tt: rank = [4, 8], order = ('in', 'layer', 'out')", TensorTrain((4, 8), ("in", "layer", "out"))),
        ("CP:rank=2,", CP(2)),
    ],
)
def test_what_the_command_line_says(text: str, format: Format) -> None:
    assert parse_format(text) == format


@pytest.mark.parametrize(
    "text",
    [
        "tt",
        "tt:",
        "tt:16",
        "tt:rank",
        "tt:rank=",
        "tt:rank=r",
        "tt:rnk=4",
        "tt:rank=4,colour=1",
        "tt:rank=4;",
        "tt:**{'rank': 4}",
        "tt:rank=__import__('os')",
        "tt:rank=4)(",
        "tt:rank=8).x(rank=4",
        "tt:rank=4,rank=5",
        "tt:rank={[]}",
        "tt:rank=4,order=5",
        "tt:rank=" + "(" * 300,
        "nothing:rank=4",
        "",
        ":rank=4",
    ],
)
def test_what_the_command_line_cannot_say(text: str) -> None:
    with pytest.raises(FormatError):
        parse_format(text)


@given(st.text("t:rank=(,)4[]{}'*+-x ", max_size=20))
def test_any_text_is_a_format_or_a_format_error(rest: str) -> None:
    with contextlib.suppress(FormatError):
        assert isinstance(parse_format(f"tt:{rest}"), TensorTrain)


def test_ranks_as_words_are_read_and_stored() -> None:
    assert parse_format("tucker:rank=full") == Tucker("full")
    assert parse_format("tt:rank=0.1") == TensorTrain(0.1)
    assert str(CP("full")) == "CP(rank=full)"


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("tt:rank=8,order=in", "cannot read the value of the option 'order', 'in'", "tt:rank=4"),
        ("tt:rank=8,rank=4", "the option 'rank' is given twice", "tt:rank=4"),
        ("tucker:rank=2/3/4", "several numbers are written rank=(2,3,4)", "tucker:rank=4"),
        ("tucker:rank=2,3,4", "several numbers are written in parentheses, as in rank=(2,3,4)", "tucker:rank=4"),
        ("each:format=tt(rank=5", "cannot read the value of the option 'format'", "each:format=tt(rank=4)"),
        ("tt:rank=99999999999999999999", "at most 9223372036854775807", "rank=4"),
    ],
)
def test_the_wrong_part_is_named_and_the_fix_is_of_the_same_format(text: str, said: str, fix: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"Fix: {fix}.")
