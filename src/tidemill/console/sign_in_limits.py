"""Limits of the attempts to sign in: of each address, and of all together."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.errors import RateLimitError
from tidemill.settings import Settings
from tidemill.stores.rate_limits import RateLimits, RateLimitStatus


@dataclass(frozen=True)
class SignInLimits:
    """Counts attempts, also those with a right key."""

    address: RateLimits
    total: RateLimits

    def take(self, address: str) -> None:
        """Count an attempt.

        The first one of an address is allowed even if others have used up the total, so that they
        cannot lock it out.

        Raises:
            RateLimitError: The address has no attempt left, or all addresses together have none.
        """
        own = self.address.take(f"sign-in:{address}")
        total = self.total.take("sign-in")
        if own is not None and not own.allowed:
            raise _too_many(own)
        is_first = own is not None and own.remaining >= own.quota - 1
        if total is not None and not total.allowed and not is_first:
            raise _too_many(total)


def sign_in_limits(settings: Settings) -> SignInLimits:
    """The limits of the settings."""
    return SignInLimits(
        RateLimits(settings.limits_url, settings.sign_in_rate_limit),
        RateLimits(settings.limits_url, settings.sign_in_total_rate_limit),
    )


def _too_many(share: RateLimitStatus) -> RateLimitError:
    return RateLimitError(
        "Too many attempts to sign in.", remedy=f"Retry in {max(1, share.reset)} s."
    )
