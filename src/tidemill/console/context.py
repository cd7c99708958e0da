"""What all pages share."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.console.recent import Recent
from tidemill.console.session import Sessions
from tidemill.console.traffic import Traffic
from tidemill.platform import Platform
from tidemill.stores.mlflow.versions import Model
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class Desk:
    """Made once, by `create_console`."""

    platform: Platform
    sessions: Sessions
    limits: RateLimits
    recent: Recent = field(default_factory=Recent)
    traffic: Traffic = field(default_factory=Traffic)

    def registered(self) -> list[Model]:
        """The registered models, as MLflow has them now."""
        return self.platform.registry.models()
