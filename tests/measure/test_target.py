"""What milliseconds are of, as text and as a record."""

from pathlib import Path
from typing import Any

import pytest

from compress.measure.limit import Limit
from compress.measure.limit import parse as parse_limit
from compress.measure.target import Target, parse


@pytest.mark.parametrize(
    ("text", "target", "name"),
    [
        ("onnxruntime", Target("onnxruntime"), "onnxruntime"),
        ("ncnn:threads=1", Target("ncnn"), "ncnn"),
        ("ncnn:precision=float16", Target("ncnn", precision="float16"), "ncnn:precision=float16"),
        ("onnxruntime:provider=cuda", Target("onnxruntime", provider="cuda"), "onnxruntime:provider=cuda"),
        ("ncnn@tables/pi5.json", Target("ncnn", table=Path("tables/pi5.json")), "ncnn@pi5"),
        (
            "mnn:threads=64,precision=float16@p.json",
            Target("mnn", threads=64, precision="float16", table=Path("p.json")),
            "mnn:threads=64,precision=float16@p",
        ),
        ("my.engines:Tvm", Target("my.engines:Tvm"), "my.engines:Tvm"),
        ("my.engines:Tvm@1", Target("my.engines:Tvm@1"), "my.engines:Tvm@1"),
        ("my.engines:Tvm:precision=float16", Target("my.engines:Tvm", precision="float16"), None),
    ],
)
def test_text_and_record_are_the_same(text: str, target: Target, name: str | None) -> None:
    assert parse(text) == target
    assert parse(str(target)) == target
    assert target.name == (name or text)
    keys = ("engine", "threads", "precision", "provider", "table")
    assert parse({key: getattr(target, key) for key in keys}) == target


def test_a_foreign_target_takes_threads_and_precision_of_its_table() -> None:
    assert (Target("ncnn").threads, Target("ncnn").precision) == (1, "float32")
    foreign = Target("ncnn", table=Path("pi5.json"))
    assert foreign.foreign
    assert (foreign.threads, foreign.precision) == (None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ncnn:threads=two", "whole number"),
        ("ncnn:threads=1.5", "whole number"),
        ("ncnn:threads=0", "1 to"),
        ("ncnn:threads=100000@pi5.json", "1 to"),
        ("ncnn:threads=1000", "this machine gives"),
        ("ncnn:thread=2", "did you mean 'threads'"),
        ("ncnn:precision=int8", "no such precision"),
        ("ncnn:threads=2,fast", "KEY=VALUE"),
        ("ncnn@", "after @ stands the file"),
        ("", "names its engine first"),
        (":threads=2", "names its engine first"),
        ({"threads": 2}, "names its engine first"),
        (7, "a target is ENGINE"),
    ],
)
def test_what_is_no_target_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(given)


@pytest.mark.parametrize(
    ("given", "quantity", "limit"),
    [
        ("50%", "latency", Limit(0.5, True)),
        ("120 % of hand_balance", "latency", Limit(1.2, True, "hand_balance")),
        ("2.5 ms", "latency", Limit(2.5)),
        ("1e3us", "latency", Limit(1.0)),
        ("0.1 s", "latency", Limit(100.0)),
        ("300M", "macs", Limit(3e8)),
        (16_500_000_000, "macs", Limit(16.5e9)),
        ("1.2k", "params", Limit(1200.0)),
        ("1.5 MB", "size", Limit(1.5e6)),
        ("2 MiB", "size", Limit(2 * 2**20)),
    ],
)
def test_limits(given: Any, quantity: Any, limit: Limit) -> None:
    found = parse_limit(given, quantity)
    assert (found.value, found.relative, found.of) == (pytest.approx(limit.value), limit.relative, limit.of)
    unit = " ms" if quantity == "latency" and not found.relative else ""
    assert parse_limit(f"{found}{unit}", quantity) == found
    costs = {"hand_balance": 10.0, "other": 20.0}
    expected = limit.value * (10.0 if limit.of else 20.0) if limit.relative else limit.value
    assert found.absolute(costs) == pytest.approx(expected)
