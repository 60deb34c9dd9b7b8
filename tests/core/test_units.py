"""What people type as a size or a rate is understood exactly or refused in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.errors import UsageError
from minibit.units import format_duration, format_rate, format_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("16MiB", 16 * 2**20),
        ("16MB", 16_000_000),
        ("16 mib", 16 * 2**20),
        ("16mb", 16_000_000),
        ("256KiB", 2**18),
        ("256kB", 256_000),
        ("1.5GiB", 3 * 2**29),
        ("0.1kB", 100),
        (" 4096 ", 4096),
        ("7B", 7),
        ("2TB", 2 * 10**12),
        (33_554_433, 33_554_433),
    ],
)
def test_sizes_are_binary_or_decimal_as_written(text, size_bytes):
    """MiB and MB differ by 5 %, which is more than the differences MiniBit measures."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MiB",
        "-1",
        "-1MB",
        "0",
        "0MiB",
        "0.2B",
        "nan",
        "inf",
        "1e9",
        "16Mb",
        "16M",
        "1,5MB",
        "16 MiB/s",
        "9" * 400,
        True,
    ],
)
def test_what_is_no_size_is_refused_with_an_example(text):
    """A mistyped size must cost a second, not a run of the wrong size; bits are never taken for bytes."""
    with pytest.raises(UsageError, match=r"is not a size; expected .*16MiB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_an_empty_file_is_a_size_where_it_is_allowed():
    """An empty file is a valid swarm; a block of no bytes is not, and nothing may round down to none."""
    assert parse_size("0", allow_zero=True) == 0
    with pytest.raises(UsageError):
        parse_size("0.2B", allow_zero=True)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("2MB/s", 2e6),
        ("512KiB/s", 524_288.0),
        ("2MB", 2e6),
        ("1500", 1500.0),
        (0.5, 0.5),
        (2_000_000, 2e6),
        ("unlimited", None),
        ("Unlimited", None),
    ],
)
def test_rates_are_bytes_per_second_or_unlimited(text, rate):
    """One spelling of no limit, and it is a word: a rate of 0 is more often a mistake."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "0", "0MB/s", "-2MB/s", "nan", "inf", "2Mb/s", "2MB/h", "fast", "none", float("nan"), float("inf"), -1.0, 0],
)
def test_what_is_no_rate_is_refused_with_an_example(text):
    """A rate of nan or 0 would hang a swarm until its time-out instead of failing at once."""
    with pytest.raises(UsageError, match=r"is not a rate; expected .*2MB/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("formatted", "text"),
    [
        (format_size(0), "0 B"),
        (format_size(900), "900 B"),
        (format_size(1024), "1 KiB"),
        (format_size(16 * 2**20), "16 MiB"),
        (format_size(2**20 - 1), "1 MiB"),
        (format_size(1023.9), "1 KiB"),
        (format_size(1.375 * 2**30), "1.38 GiB"),
        (format_size(5000 * 2**40), "5000 TiB"),
        (format_rate(None), "unlimited"),
        (format_rate(2e6), "2 MB/s"),
        (format_rate(783_211), "783 kB/s"),
        (format_rate(999_999), "1 MB/s"),
        (format_duration(0.00042), "0.42 ms"),
        (format_duration(0.31), "310 ms"),
        (format_duration(0.99999), "1 s"),
        (format_duration(12.34), "12.3 s"),
        (format_duration(59.97), "1 min 00 s"),
        (format_duration(125), "2 min 05 s"),
        (format_duration(3599.9), "1 h 00 min"),
        (format_duration(3720), "1 h 02 min"),
    ],
)
def test_figures_are_shown_with_three_digits_and_never_as_sixty_seconds(formatted, text):
    """Tables are read by people: no 1024 KiB, no 0 min 60 s, no digits that mean nothing."""
    assert formatted == text


@given(st.integers(1, 2**60))
def test_a_shown_size_reads_back_within_its_digits(size_bytes):
    """What MiniBit prints can be typed back to it."""
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


@given(st.floats(1, 1e15))
def test_a_shown_rate_reads_back_within_its_digits(rate):
    """The same for rates."""
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=0.006)


def said_of(parse, text):
    """Return what a person sees: the value, or the message."""
    try:
        return str(parse(text))
    except UsageError as error:
        return str(error)


@given(st.text(max_size=30))
def test_any_text_is_understood_or_refused_in_one_line(text):
    """No input of a user may end in a traceback."""
    assert len(said_of(parse_size, text).splitlines()) == 1
    assert len(said_of(parse_rate, text).splitlines()) == 1
