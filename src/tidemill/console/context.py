"""What all pages share."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.console.background_cache import BackgroundCache
from tidemill.console.session import Sessions
from tidemill.console.traffic import Traffic
from tidemill.platform import Platform
from tidemill.stores.mlflow.versions import RegisteredModel
from tidemill.stores.rate_limits import RateLimits


@dataclass(frozen=True)
class ConsoleContext:
    """Made once, by `create_console`."""

    platform: Platform
    sessions: Sessions
    limits: RateLimits
    cache: BackgroundCache = field(default_factory=BackgroundCache)
    traffic: Traffic = field(default_factory=Traffic)

    def registered(self) -> list[RegisteredModel]:
        """The registered models, as MLflow has them now."""
        return self.platform.registry.models()
