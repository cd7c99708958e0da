from collections.abc import Mapping
from dataclasses import replace

from benchmarks.serving.peer import Place
from benchmarks.serving.peers import tidemill


def environment(place: Place, model: str) -> Mapping[str, str]:
    return {**tidemill.environment(place, model), "TIDEMILL_JOURNAL": "off"}


PEER = replace(
    tidemill.PEER,
    name="tidemill-unrecorded",
    title="Tidemill without its journal",
    environment=environment,
    forms=tidemill.PEER.forms[:1],
    prove=lambda place, port: None,
    home="tidemill",
)
