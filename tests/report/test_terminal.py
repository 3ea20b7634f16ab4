import io
import itertools
import os
import subprocess
import sys

import pytest
from fake_results import fake_results
from rich.console import Console

from compress.progress import Stage
from compress.report.progress import Terminal
from compress.report.terminal import (
    duration,
    file_size,
    print_error,
    print_mapping,
    print_search,
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


def test_search_shows_every_network_and_where_it_lies():
    results = fake_results()
    text = shown(print_search, results)
    for network in results["networks"]:
        line = next(line for line in text.splitlines() if network["name"] in line)
        assert network["role"] in line
        assert f"{network['val']['AP']:.3f} ± 0.011" in line
        assert f"{network['measured_ms']:.2f} ± " in line
        assert f"{network['cost']['predicted_ms']:.2f}" in line
        assert f"{100 * network['prediction_error']:+.1f} %" in line
    assert "unreliable" in next(line for line in text.splitlines() if "finalist_2" in line)
    assert {line.split()[1] for line in text.splitlines() if line.startswith("* finalist")} == {
        *("finalist_1", "finalist_2", "finalist_3", "finalist_4")
    }
    for place in ("report.html", "pareto.png", "pareto.csv", "results.json"):
        assert f"{results['folder']}/{place}" in text
    assert not has_control_characters(text)


def test_search_on_a_narrow_terminal_cuts_no_number():
    results = fake_results(trials=0)
    text = shown(print_search, results, width=80)
    for network in results["networks"]:
        assert f"{network['val']['AP']:.3f} ± 0.011" in text
        assert f"{100 * network['prediction_error']:+.1f} %" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_accuracy_and_time_are_of_one_procedure_and_the_other_stands_beside(width):
    results = fake_results(trials=0)
    text = shown(print_search, results, width=width)
    assert "AP and milliseconds of one pass" in " ".join(text.split())
    for network in results["networks"]:
        other = network["other"]
        pair = [network["val"]["AP"], network["end_to_end_ms"], other["val"]["AP"], other["end_to_end_ms"]]
        (line,) = (line for line in text.splitlines() if f"{pair[2]:.3f}" in line and network["name"] in line)
        assert line.split()[-4:] == [f"{pair[0]:.3f}", f"{pair[1]:.2f}", f"{pair[2]:.3f}", f"{pair[3]:.2f}"]


def test_two_passes_take_the_networks_time_twice():
    results = fake_results(trials=0)
    results["procedure"] = "two passes"
    for network in results["networks"]:
        network |= {**network["other"], "other": {**network["other"], "procedure": "one pass", "passes": 1}}
    text = shown(print_search, results)
    assert "AP and milliseconds of two passes" in " ".join(text.split())
    for network in results["networks"]:
        assert f"{2 * network['measured_ms']:.2f} ±" in text
        assert f"{2 * network['cost']['predicted_ms']:.2f}" in text


def test_search_without_numbers_has_dashes():
    results = fake_results(trials=0)
    results["networks"] = results["networks"][:1]
    unknown = ("latency", "measured_ms", "prediction_error", "supernet_ap", "ap_standard_error")
    results["networks"][0] |= dict.fromkeys(unknown) | {"val": {"AP": None}, "cost": {}, "exports": {}}
    text = shown(print_search, results)
    assert "None" not in text
    assert "–" in text


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
    code = "import sys, compress.report.terminal; print({'torch', 'altair', 'numpy', 'vl_convert'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"
