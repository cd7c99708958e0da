"""The run as a page of Markdown: targets, tables, how it was measured, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.serving.results import Results, Sample, Workload
from benchmarks.serving.targets import verdicts
from benchmarks.serving.train import MODELS

WORDS = {True: "met", False: "**missed**", None: "not measured"}


def markdown(results: Results, notes: str = "", picture: str = "") -> str:
    """The whole page; `notes` is what a person wrote about the figures, `picture` a file name."""
    parts = [
        "# Serving, measured against every peer",
        _introduction(results),
        _targets(results),
        f"![CPU time per request of every server]({picture})" if picture else "",
        *_tables(results),
        _starts(results),
        _left_out(results),
        notes.strip(),
        METHOD.strip(),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """A Markdown table; columns of numbers, which all but the first are, go to the right."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _introduction(results: Results) -> str:
    about = results.about
    return (
        f"Measured on {about['date']} by `{about['command']}` on {about['machine']}. "
        f"Every server and setting had {_turns(results)} in alternating rounds; "
        "figures are medians over the rounds, ratios are taken within a round. "
        "CPU time is user and system time of all processes of a server, divided by the requests "
        "it answered."
    )


def _turns(results: Results) -> str:
    """How often and how long each was measured; a run in several parts may differ between them."""
    rounds = sorted(
        {len({s.round for s in results.samples if s.workload == c}) for c in results.workloads()}
    )
    lengths = sorted({round(s.seconds) for s in results.samples})
    return f"{' or '.join(map(str, rounds))} turns of {' or '.join(map(str, lengths))} s"


def _targets(results: Results) -> str:
    rows = [(v.target, v.found, WORDS[v.met]) for v in verdicts(results)]
    return "## Targets\n\n" + table(("target", "found", ""), rows, numbers=False)


def _tables(results: Results) -> list[str]:
    return [_table(results, main) for main in results.main_workloads()]


def _table(results: Results, main: Workload) -> str:
    model, rows, _ = main
    workloads = sorted(
        workload for workload in results.workloads() if workload[:2] == (model, rows)
    )
    shown = " / ".join(str(workload[2]) for workload in workloads)
    lines = []
    for case in _by_cpu(results, main):
        ratios = results.ratios(case, main)
        lines.append(
            (
                results.titles[case],
                _figures(results, case, workloads, lambda s: s.cpu, "{:,.0f}"),
                f"{median(ratios):.3g}x" if ratios else "",
                _figures(results, case, workloads, lambda s: s.rate, "{:,.0f}"),
                _figures(results, case, workloads, lambda s: s.p50 * 1e3, "{:.2f}"),
                _figures(results, case, workloads, lambda s: s.p99 * 1e3, "{:.2f}"),
            )
        )
    what = "one row a request" if rows == 1 else f"{rows} rows a request"
    head = (
        "server",
        "CPU, us a request",
        f"over ours, {main[2]} conn.",
        "requests/s",
        "p50, ms",
        "p99, ms",
    )
    title = f"## {MODELS[model].capitalize()}, {what}"
    return f"{title}\n\nAt {shown} connections.\n\n{table(head, lines)}"


def _by_cpu(results: Results, workload: Workload) -> list[str]:
    """Cases by their CPU a request, least first; what was not measured there is last."""
    found = {case: results.figure(case, workload, lambda s: s.cpu) for case in results.cases()}
    return sorted(found, key=lambda case: found[case] or float("inf"))


def _figures(
    results: Results,
    case: str,
    workloads: list[Workload],
    of: Callable[[Sample], float],
    template: str,
) -> str:
    found = [results.figure(case, workload, of) for workload in workloads]
    return " / ".join("-" if value is None else template.format(value) for value in found)


def _starts(results: Results) -> str:
    started = {server: times for server, times in results.cold.items() if times}
    lines = [
        (
            _server_title(results, server),
            f"{median(times):.2f}",
            f"{results.memory[server]['pss'] / 2**20:.0f}",
            f"{results.memory[server]['rss'] / 2**20:.0f}",
        )
        for server, times in sorted(started.items(), key=lambda item: median(item[1]))
        if server in results.memory
    ]
    head = ("server", "start to first right answer, s", "PSS, MB", "RSS, MB")
    return (
        "## Cold start and memory\n\nOne server at a time, files in the page cache; memory after "
        "two seconds of load at 16 connections. Tidemill holds both models, the others one.\n\n"
        + table(head, lines)
    )


def _server_title(results: Results, server: str) -> str:
    return str(results.about["servers"].get(server, server))


def _left_out(results: Results) -> str:
    wrong = [s for s in results.samples if s.errors]
    lines = [f"- {server}: {reason.strip()}" for server, reason in results.failures.items()]
    lines += [
        f"- {s.case}, {s.model}, {s.rows} rows, {s.connections} connections, round {s.round + 1}: "
        f"{s.errors} failed requests; this measurement is not in the tables"
        for s in wrong
    ]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""


def _versions(results: Results) -> str:
    rows = [
        (_server_title(results, server), ", ".join(f"{n} {v}" for n, v in found.items()))
        for server, found in results.versions.items()
    ]
    own = f"Python {results.about['python']}, {results.about['load']}."
    return "## Versions\n\n" + own + "\n\n" + table(("server", "packages"), rows, numbers=False)


METHOD = """
## How it was measured

- Every server runs in an environment of its own, made from the package list in its file under
  `benchmarks/serving/peers/`, and is one process answering requests (what its framework starts
  beside that is counted with it). It has one core to itself; the load has the others.
- The load is wrk on one thread, in a closed loop: a connection asks again once it is answered, so
  latencies include waiting behind the other connections. 64 different single rows, or 16 different
  batches, take turns.
- Before a server is measured, every one of those requests is asked once and its labels compared
  with scikit-learn's. A measurement with an answer other than 200 is left out and reported.
- Tidemill runs with everything on: validation against the signature, API key, rate limit, metrics,
  journal with inputs, request ids. Its response cache is off, since repeated questions would
  flatter it. It answers labels with probabilities; the peers answer labels alone: less work.
- Peers run as their own guides say for production, with access logs off where there is a switch.
  The two limits have no features at all: they check nothing, record nothing and protect nothing.
- p99 under a closed loop on a shared machine contains whatever else the machine does; CPU time a
  request does not, which is why it is the main figure.
"""
