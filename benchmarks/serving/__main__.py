"""`python -m benchmarks.serving`: install the peers, start them, measure, write the report."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import signal
import sys
from pathlib import Path

from benchmarks.serving import environment, load, results
from benchmarks.serving.cores import layout, take_precedence
from benchmarks.serving.peer import ROOT, Installation, Peer
from benchmarks.serving.peers import load_peers
from benchmarks.serving.picture import draw
from benchmarks.serving.report import markdown
from benchmarks.serving.results import Results
from benchmarks.serving.run import Bench, Plan
from benchmarks.serving.targets import verdicts
from benchmarks.serving.train import MODELS

NOTES = Path(__file__).parent / "notes.md"
DOCS = ROOT / "docs" / "benchmarks"
QUICK = ("tidemill", "fastapi")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.report:
        write(results.load(options.output / "serving.json"), options.output)
        return 0
    # SIGTERM must stop the servers too, and only an exception unwinds to the code that stops them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.precedence:
        take_precedence(os.getpid())
    wrk = load.find_wrk()
    peers = load_peers(options.peers)
    plan = Plan(
        options.models,
        options.rows,
        options.connections,
        options.rounds,
        options.seconds,
        options.cold,
        options.restart_every or options.rounds,
    )
    path = options.output / "serving.json"
    found = _resumed(options, path) or Results(about=_about(options, wrk, peers))
    installations = _install(peers, options.cache, found)
    installed = [peer for peer in peers if peer.name in installations]
    bench = Bench(
        plan, installed, installations, wrk, options.cache, found, lambda: found.save(path), _log
    )
    bench.run()
    write(found, options.output)
    return _exit_code(found)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options; --quick and --peers decide the defaults and the output folder."""
    parser = argparse.ArgumentParser("python -m benchmarks.serving", description=__doc__)
    add = parser.add_argument
    add("--peers", type=_words, help="servers to measure, comma-separated (default: all)")
    add("--models", type=_words, default=tuple(MODELS), help="logistic,forest")
    add(
        "--rows",
        type=_numbers,
        default=(1, 100),
        help="rows per request, comma-separated (default: 1,100)",
    )
    add(
        "--connections",
        type=_numbers,
        help="numbers of connections, comma-separated (default: 1,16,64)",
    )
    add("--rounds", type=int, help="measurements of each server per setting (default: 3)")
    add("--seconds", type=int, help="length of one measurement (default: 3)")
    add("--restart-every", "--reign", type=int, help="restart all servers after N rounds")
    add("--cold", type=int, help="cold starts per server (default: 5)")
    add("--quick", action="store_true", help=f"a smoke test: {', '.join(QUICK)}, one round of 1 s")
    add("--precedence", action="store_true", help="raise the scheduling priority (needs root)")
    add("--resume", action="store_true", help="resume the run whose JSON is in the output folder")
    add("--report", action="store_true", help="only rewrite the report from its JSON")
    add("--cache", type=Path, default=ROOT / ".bench", help="folder for environments and models")
    add(
        "--output",
        type=Path,
        help="default: docs/benchmarks for a full run, else a folder in the cache",
    )
    options = parser.parse_args(arguments)
    full = {"peers": None, "connections": (1, 16, 64), "rounds": 3, "seconds": 3, "cold": 5}
    quick = {"peers": QUICK, "connections": (16,), "rounds": 1, "seconds": 1, "cold": 1}
    whole = not options.quick and options.peers is None
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.cache = options.cache.absolute()
    options.output = options.output or (
        DOCS if whole or options.report else options.cache / "partial"
    )
    return options


def write(found: Results, folder: Path) -> None:
    """Write serving.json, serving.md and serving.png, and print the page."""
    found.save(folder / "serving.json")
    picture = folder / "serving.png" if found.samples else None
    if picture:
        draw(found, picture)
    notes = NOTES.read_text() if NOTES.is_file() and folder == DOCS else ""
    page = markdown(found, notes, picture.name if picture else "")
    (folder / "serving.md").write_text(page)
    print(page)
    _log(f"Written to {folder / 'serving.md'}, .json and .png.")


def _resumed(options: argparse.Namespace, path: Path) -> Results | None:
    """Return the results of the interrupted run to resume, or None."""
    if not options.resume or not path.is_file():
        return None
    found = results.load(path)
    found.about["command"] += f"` and `{_command()}"
    return found


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]])


def _install(peers: list[Peer], cache: Path, found: Results) -> dict[str, Installation]:
    installations = {}
    for peer in peers:
        _log(f"{peer.title}: environment")
        try:
            installation = environment.install_peer(peer, cache)
            found.versions[peer.name] = environment.versions(installation, peer.show)
            installations[peer.name] = installation
            found.titles.update(
                {peer.case(endpoint): peer.entry(endpoint) for endpoint in peer.endpoints}
            )
        except environment.InstallError as error:
            found.failures[peer.name] = f"does not install here: {error}"
            _log(f"{peer.title}: left out. {error}")
    return installations


def _about(options: argparse.Namespace, wrk: str, peers: list[Peer]) -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command() if len(sys.argv) > 1 else "make bench-serving",
        "machine": _machine(),
        "python": platform.python_version(),
        "load": load.wrk_version(wrk),
        "servers": {peer.name: peer.title for peer in peers},
    }


def _machine() -> str:
    """Describe the machine without its host name."""
    server, loading = layout()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kind = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    shared = " (shared with the load)" if server == loading else ""
    return (
        f"{len(server | loading)} cores of {kind}, Linux {platform.release().split('-')[0]}; "
        f"one core for the server{shared}"
    )


def _exit_code(found: Results) -> int:
    """Return 0 if Tidemill was measured without a failed request; missed targets do not count."""
    missed = [verdict.target for verdict in verdicts(found) if verdict.met is False]
    for target in missed:
        _log(f"missed: {target}")
    ours = [s for s in found.samples if s.case.startswith(results.OURS)]
    return 0 if ours and not any(s.errors for s in ours) else 1


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
