import io
import itertools
import os
import subprocess
import sys

import pytest
from rich.console import Console

from compress.progress import Stage
from compress.report.progress import Terminal
from compress.report.terminal import (
    duration,
    file_size,
    print_error,
    print_mapping,
    short,
)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def plain(work, **settings):
    """What a Terminal writes to a stream that is no terminal."""
    stream, clock = io.StringIO(), Clock()
    work(Terminal(stream=stream, clock=clock, **settings), clock)
    return stream.getvalue()


def hundred_steps(terminal, clock):
    with terminal.phase("supernet", 100) as phase:
        for step in range(100):
            clock.now += 3
            phase.advance(1, f"loss {step}")


def has_control_characters(text):
    return any(not character.isprintable() for character in text.replace("\n", ""))


def test_plain_lines_every_tenth_with_time_left():
    lines = plain(hundred_steps).splitlines()
    assert lines[0] == "supernet: 100 steps"
    assert lines[1] == "supernet: 10/100 (10 %), 30 s, ETA 4 min 30 s, loss 9"
    assert lines[-1] == "supernet: done, 100/100 in 5 min 00 s, loss 99"
    assert len(lines) == 1 + 9 + 1


def test_plain_lines_are_not_faster_than_every_two_seconds():
    def work(terminal, clock):
        with terminal.phase("data", 1000) as phase:
            for _ in range(1000):
                clock.now += 0.005
                phase.advance()

    assert len(plain(work).splitlines()) == 1 + 2 + 1


def test_slow_phases_are_heard_every_minute():
    def work(terminal, clock):
        with terminal.phase("search", 1000) as phase:
            for _ in range(10):
                clock.now += 61
                phase.advance()

    assert len(plain(work).splitlines()) == 1 + 10 + 1


def test_time_left_forgets_what_a_resumed_run_replays():
    clock = Clock()
    with Terminal(stream=io.StringIO(), clock=clock).phase("search", 200) as phase:
        assert phase.left_s is None
        for _ in range(100):
            phase.advance()
        for _ in range(30):
            clock.now += 2
            phase.advance()
        assert phase.left_s == pytest.approx(70 * 2, rel=0.05)


def test_time_left_shrinks_between_advances_and_is_never_negative():
    clock = Clock()
    with Terminal(stream=io.StringIO(), clock=clock).phase("search", 2) as phase:
        clock.now += 10
        phase.advance()
        clock.now += 4
        assert phase.left_s == pytest.approx(6)
        clock.now += 100
        assert phase.left_s == 0


# Seconds of a whole search on a slow machine, phase by phase: found beforehand, then what was planned.
SLOW = {"table": 67, "supernet": 621, "search": 351, "tuning": 420, "scoring": 106}
STEPS = {"table": 30, "supernet": 1200, "search": 150, "tuning": 800, "scoring": 6}
PLANNED = {"supernet": 86400, "search": 38400, "tuning": 102400, "scoring": 19800}  # pictures through a network


def job_left(terminal, clock, *, pace, done=()):
    """Runs it; (time passed, told to be left, really left) after every step in which time passed."""
    terminal.plan([Stage(name, work) for name, work in PLANNED.items()])
    told, begin = [], clock.now
    for name, seconds in SLOW.items():
        if name in done:
            continue
        with terminal.phase(name, STEPS[name]) as phase:
            for step in range(STEPS[name]):
                clock.now += seconds / STEPS[name] * pace(step)
                phase.advance()
                told.append((clock.now - begin, terminal._job.left_s(phase)))
    return [(passed, left, clock.now - begin - passed) for passed, left in told]


def test_the_time_left_is_of_the_whole_job_and_does_not_jump():
    """Other programs take the cores for 40 steps at a time, and every hundredth step takes 20 times as long."""
    clock = Clock()
    terminal = Terminal(stream=io.StringIO(), clock=clock)
    told = job_left(terminal, clock, pace=lambda step: (2.5 if step // 40 % 3 == 1 else 1) + 20 * (step % 100 == 50))
    assert clock.now > 1000
    unknown = [left for passed, left, _ in told[: STEPS["table"]]]
    assert unknown == [None] * STEPS["table"]  # nothing is known of the machine yet: no time is invented
    after = told[STEPS["table"] + 60 :]
    ends = [passed + left for passed, left, _ in after]
    really = told[-1][0]
    assert all(0.6 * really < end < 1.6 * really for end in ends)
    assert max(abs(later - end) for end, later in itertools.pairwise(ends)) < 0.15 * really
    assert all(left == pytest.approx(real, abs=0.1 * really) for _, left, real in after[-200:])


def test_the_job_of_a_resumed_run_counts_from_where_it_goes_on():
    clock = Clock()
    terminal = Terminal(stream=io.StringIO(), clock=clock)
    terminal.plan([Stage(name, work) for name, work in PLANNED.items()])
    with terminal.phase("supernet", 1200) as phase:
        phase.advance(1200)  # found done
        assert terminal._job.left_s(phase) is None
    with terminal.phase("search", 150) as phase:
        for _ in range(100):
            phase.advance()
        for _ in range(20):
            clock.now += 3
            phase.advance()
        left = terminal._job.left_s(phase)
    assert left == pytest.approx(30 * 3 + 150 * 3 * (PLANNED["tuning"] + PLANNED["scoring"]) / PLANNED["search"])
    terminal = Terminal(stream=io.StringIO(), clock=clock)
    told = job_left(terminal, clock, pace=lambda step: 1.0, done=("table", "supernet", "search"))
    assert told[50][1] == pytest.approx(SLOW["tuning"] + SLOW["scoring"], rel=0.2)


def test_stages_of_one_name_come_one_after_the_other():
    """The first scoring takes 10 s for its work of 10; what is to come is the second one, of 30."""
    clock = Clock()
    terminal = Terminal(stream=io.StringIO(), clock=clock)
    terminal.plan([Stage("scoring", 10), Stage("scoring", 30)])
    for seconds, left in ((10, 30), (30, 0)):
        with terminal.phase("scoring", 100) as phase:
            for _ in range(100):
                clock.now += seconds / 100
                phase.advance()
            assert terminal._job.left_s(phase) == pytest.approx(left)


def test_lines_tell_the_phase_and_the_job():
    def work(terminal, clock):
        terminal.plan([Stage("supernet", 10), Stage("search", 20)])
        hundred_steps(terminal, clock)

    assert "supernet: 10/100 (10 %), 30 s, ETA 4 min 30 s, job 14 min, loss 9" in plain(work).splitlines()
    assert ", job" not in plain(hundred_steps)  # nothing was planned


def test_plain_output_has_no_control_characters():
    def work(terminal, clock):
        terminal.say("\x1b[31mred\x1b[0m\rline\ttwo")
        with terminal.phase("bad\x1bname", 1) as phase:
            clock.now += 5
            phase.advance(1, "note\x07\r")

    assert not has_control_characters(plain(work))


def test_a_phase_that_fails_says_so():
    stream = io.StringIO()

    def work():
        with Terminal(stream=stream).phase("search", 5) as phase:
            phase.advance(2)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        work()
    assert "search: stopped, 2/5" in stream.getvalue()


def test_empty_and_nested_phases():
    def work(terminal, clock):
        with terminal.phase("outer", 0), terminal.phase("inner", 1) as inner:
            inner.advance()

    assert plain(work).count("done") == 2


def test_quiet_prints_nothing(capsys):
    def work(terminal, clock):
        terminal.say("hello")
        hundred_steps(terminal, clock)

    assert plain(work, quiet=True) == ""
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")

    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen, clock = Screen(), Clock()
    terminal = Terminal(stream=screen, clock=clock)
    with terminal.phase("supernet", 4) as phase:
        terminal.say("resumed [bold]here[/bold]")
        clock.now += 2
        phase.advance(3, "loss [0.1]")
        with terminal.phase("inner", 1) as inner:
            inner.advance()
    text = screen.getvalue()
    for shown in ("supernet", "inner", "3/4", "loss [0.1]", "resumed [bold]here[/bold]"):
        assert shown in text
    with terminal.phase("again", 1) as phase:
        phase.advance()
    assert "again" in screen.getvalue()


def shown(print_, *arguments, width=160):
    stream = io.StringIO()
    print_(*arguments, console=Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_paths_keep_their_underscores():
    assert "my_pictures/a_b.png" in shown(print_mapping, "Drawn", {"my_pictures/a_b.png": "1 person"})


def test_mapping():
    text = shown(print_mapping, "Exported", {"size_bytes": 5, "files": ["x", "y"], "inner": {"ok": True}})
    for expected in ("Exported", "size bytes  5", "x, y", "    ok  yes"):
        assert expected in text


def test_error_is_one_line_on_stderr(capsys):
    print_error(ValueError("first\nsecond \x1b[31m"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: first second")
    assert not has_control_characters(err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_short_numbers():
    assert [short(n) for n in (None, 12, 1234, 12_345_678, 2.5e9)] == ["–", "12", "1.23 k", "12.3 M", "2.50 G"]
    assert [file_size(n) for n in (None, 4000, 4_912_000)] == ["–", "4 kB", "4.91 MB"]


def test_terminal_imports_nothing_heavy():
    code = "import sys, compress.report.terminal; print({'torch', 'jinja2', 'numpy', 'vl_convert'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"
