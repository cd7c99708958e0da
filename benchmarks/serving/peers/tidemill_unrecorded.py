from collections.abc import Mapping
from dataclasses import replace

from benchmarks.serving.peer import Installation
from benchmarks.serving.peers import tidemill


def environment(installation: Installation, model: str) -> Mapping[str, str]:
    return {**tidemill.environment(installation, model), "TIDEMILL_JOURNAL": "off"}


PEER = replace(
    tidemill.PEER,
    name="tidemill-unrecorded",
    title="Tidemill without its journal",
    environment=environment,
    endpoints=tidemill.PEER.endpoints[:1],
    verify=lambda installation, port: None,
    home="tidemill",
)
