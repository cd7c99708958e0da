"""Render a run as Markdown: targets, tables, method, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.serving.results import Results, Sample, Workload
from benchmarks.serving.targets import verdicts
from benchmarks.serving.train import MODELS

WORDS = {True: "met", False: "**missed**", None: "not measured"}


def markdown(results: Results, notes: str = "", picture: str = "") -> str:
    """Render the page; `notes` is a hand-written Markdown section, `picture` a file name."""
    parts = [
        "# Serving benchmark: Tidemill and its peers",
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
    """Render a Markdown table; with `numbers`, all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _introduction(results: Results) -> str:
    about = results.about
    return (
        f"Measured on {about['date']} by `{about['command']}` on {about['machine']}. "
        f"Every server and setting was measured {_repetitions(results)}, in alternating rounds; "
        "figures are medians over the rounds, and ratios are computed within a round. "
        "CPU time is user and system time of all processes of a server, divided by the requests "
        "it answered."
    )


def _repetitions(results: Results) -> str:
    """Describe how often and how long each was measured; the parts of a run may differ."""
    rounds = sorted(
        {len({s.round for s in results.samples if s.workload == c}) for c in results.workloads()}
    )
    lengths = sorted({round(s.seconds) for s in results.samples})
    return f"{' or '.join(map(str, rounds))} times for {' or '.join(map(str, lengths))} s"


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
    what = "one row per request" if rows == 1 else f"{rows} rows per request"
    head = (
        "server",
        "CPU, us per request",
        f"relative to Tidemill, {main[2]} conn.",
        "requests/s",
        "p50, ms",
        "p99, ms",
    )
    title = f"## {MODELS[model].capitalize()}, {what}"
    return f"{title}\n\nAt {shown} connections.\n\n{table(head, lines)}"


def _by_cpu(results: Results, workload: Workload) -> list[str]:
    """Sort the cases by CPU per request, lowest first; unmeasured ones come last."""
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
    head = ("server", "start to first correct answer, s", "PSS, MB", "RSS, MB")
    return (
        "## Cold start and memory\n\nOne server at a time, with its files in the page cache; "
        "memory after two seconds of load at 16 connections. Tidemill holds both models, the "
        "others one.\n\n" + table(head, lines)
    )


def _server_title(results: Results, server: str) -> str:
    return str(results.about["servers"].get(server, server))


def _left_out(results: Results) -> str:
    wrong = [s for s in results.samples if s.errors]
    lines = [f"- {server}: {reason.strip()}" for server, reason in results.failures.items()]
    lines += [
        f"- {s.case}, {s.model}, {s.rows} rows, {s.connections} connections, round {s.round + 1}: "
        f"{s.errors} failed requests; excluded from the tables"
        for s in wrong
    ]
    return "## Excluded\n\n" + "\n".join(lines) if lines else ""


def _versions(results: Results) -> str:
    rows = [
        (_server_title(results, server), ", ".join(f"{n} {v}" for n, v in found.items()))
        for server, found in results.versions.items()
    ]
    own = f"Python {results.about['python']}, {results.about['load']}."
    return "## Versions\n\n" + own + "\n\n" + table(("server", "packages"), rows, numbers=False)


METHOD = """
## How it was measured

- Every server runs in its own environment, installed from the package list in its file under
  `benchmarks/serving/peers/`. One process answers the requests; other processes that the framework
  starts are included in the figures. The server has one core to itself; the load has the others.
- The load is wrk with one thread in a closed loop: a connection sends the next request when the
  previous one is answered, so latencies include queueing behind the other connections. The requests
  rotate through 64 different single rows or 16 different batches.
- Before a server is measured, each of these requests is sent once and its labels are compared with
  scikit-learn's. A measurement with a status other than 200 is excluded and reported.
- Tidemill runs with all features on: validation against the signature, API key, rate limit,
  metrics, journal with inputs, request ids. Its response cache is off, because the load repeats
  requests. It returns labels and probabilities; the peers return labels only, which is less work.
- Peers run as their guides recommend for production, with access logs off where possible. The two
  lower bounds (`limit`) have no features: no validation, no recording, no access control.
- p99 in a closed loop on a shared machine includes interference from other processes. CPU time per
  request does not, so it is the main figure.
"""
