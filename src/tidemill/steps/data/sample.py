"""A small table to begin with: made-up customers, some of whom left."""

from __future__ import annotations

import numpy as np
import pandas as pd


def sample_customers(rows: int = 600, seed: int = 7) -> pd.DataFrame:
    """Numbers, texts, booleans and gaps, and the text target `churned` ("yes" or "no").

    Who leaves depends on the plan, the months stayed, the calls for help and the fee, with noise:
    a good model gets about five in six right.
    """
    rng = np.random.default_rng(seed)
    plan = rng.choice(["basic", "plus", "pro"], rows, p=[0.5, 0.3, 0.2])
    months = rng.integers(1, 61, rows)
    calls = rng.poisson(2.0, rows)
    fee = np.round(
        rng.normal(20.0, 4.0, rows) + 12.0 * (plan == "plus") + 30.0 * (plan == "pro"), 2
    )
    autopay = rng.random(rows) < 0.6
    leaning = 1.5 * (plan == "basic") - 0.08 * (months - 24) + 0.9 * (calls - 2) - 1.2 * autopay
    churned = rng.random(rows) < 1.0 / (1.0 + np.exp(-2.0 * leaning))
    return pd.DataFrame(
        {
            "customer_id": [f"C{number:05d}" for number in range(1, rows + 1)],
            "age": pd.Series(rng.integers(18, 80, rows))
            .where(rng.random(rows) > 0.08)
            .astype("Int64"),
            "region": pd.Series(rng.choice(["north", "south", "east", "west"], rows)).where(
                rng.random(rows) > 0.05
            ),
            "plan": plan,
            "monthly_fee": pd.Series(fee).where(rng.random(rows) > 0.05),
            "months": months,
            "support_calls": calls,
            "autopay": autopay,
            "churned": np.where(churned, "yes", "no"),
        }
    )
