"""Write streams as CSV files, in river's own environment.

`river_worker.py FOLDER ROWS SEED...`. A stream's name begins with its kind of drift. Its columns
are those of the generator, then `target`.
"""

import csv
import math
import random
import sys
from itertools import islice
from pathlib import Path

from river.datasets import synth


def sea(variant, seed):
    return synth.SEA(variant=variant, noise=0.1, seed=seed)


def agrawal(function, seed):
    return synth.Agrawal(classification_function=function, perturbation=0.05, seed=seed)


def stagger(function, seed):
    return synth.STAGGER(classification_function=function, seed=seed)


def friedman(seed):
    return synth.Friedman(seed=seed)


def parts(makers, rows, seed):
    """Concatenate concepts of equal length: abrupt changes."""
    length = rows // len(makers)
    for number, make in enumerate(makers):
        count = rows - length * (len(makers) - 1) if number == len(makers) - 1 else length
        yield from islice(make(seed * 100 + number), count)


def blend(old, new, rows, seed, width):
    """Change from one concept to another by a sigmoid around the middle: a gradual change."""
    draw, first, second = random.Random(seed), iter(old(seed)), iter(new(seed + 1000))
    for row in range(rows):
        share = 1 / (1 + math.exp(-4 * (row - rows / 2) / width))
        yield next(second if draw.random() < share else first)


def tilted(stream, rows, seed, column, low, high):
    """Keep the concept, but shift one column from low to high values: covariate drift."""
    draw, found = random.Random(seed), 0
    for x, y in stream:
        place = (x[column] - low) / (high - low)
        share = 0.25 + 0.5 * min(max((found / rows - 0.4) / 0.2, 0), 1)
        if draw.random() < (share * place + (1 - share) * (1 - place)):
            yield x, y
            found += 1
            if found == rows:
                return


def reversed_sign(stream):
    """Keep the inputs, but reverse the sign of the relation."""
    for x, y in stream:
        yield x, 30.0 - y


def streams(rows, seed):
    """Return the rows (inputs, target) of each stream by name."""

    def friedman_swapped(s):
        for x, y in friedman(s):
            yield dict(zip(x, [*list(x.values())[5:], *list(x.values())[:5]], strict=True)), y

    hyperplane = lambda **more: synth.Hyperplane(  # noqa: E731
        seed=seed, n_features=8, noise_percentage=0.05, **more
    )
    turning = hyperplane(n_drift_features=4, mag_change=0.002, sigma=0)
    a, st, against = agrawal, stagger, lambda s: reversed_sign(friedman(s))
    return {
        "abrupt-sea": parts([lambda s, v=v: sea(v, s) for v in (2, 3, 0, 1)], rows, seed),
        "abrupt-agrawal": parts([lambda s, f=f: a(f, s) for f in (0, 1, 3)], rows, seed),
        "abrupt-stagger": parts([lambda s, f=f: st(f, s) for f in (0, 1, 2)], rows, seed),
        "abrupt-friedman": parts([friedman, friedman_swapped], rows, seed),
        "gradual-agrawal": blend(lambda s: a(0, s), lambda s: a(3, s), rows, seed, rows // 4),
        "gradual-sea": blend(lambda s: sea(2, s), lambda s: sea(3, s), rows, seed, rows // 4),
        "gradual-hyperplane": islice(turning, rows),
        "gradual-friedman": blend(friedman, friedman_swapped, rows, seed, rows // 4),
        "recurring-agrawal": parts([lambda s, f=f: a(f, s) for f in (0, 3, 0, 3)], rows, seed),
        "recurring-stagger": parts([lambda s, f=f: st(f, s) for f in (0, 2, 0, 2)], rows, seed),
        "recurring-friedman": parts([friedman, against] * 2, rows, seed),
        "covariate-sea": tilted(sea(0, seed), rows, seed, 2, 0, 10),
        "covariate-hyperplane": tilted(hyperplane(n_drift_features=0), rows, seed, 0, 0, 1),
        "covariate-friedman": tilted(friedman(seed), rows, seed, 9, 0, 1),
        "none-sea": islice(sea(0, seed), rows),
        "none-agrawal": islice(a(0, seed), rows),
        "none-rbf": islice(synth.RandomRBF(seed_model=seed, seed_sample=seed, n_features=6), rows),
        "none-friedman": islice(friedman(seed), rows),
    }  # fmt: skip


def write(path, stream):
    rows = list(stream)
    names = [f"x{name}" if isinstance(name, int) else name for name in rows[0][0]]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "target"])
        writer.writerows(
            [*x.values(), f"{y:.4f}" if isinstance(y, float) else int(y)] for x, y in rows
        )


def main(folder, rows, *seeds):
    for seed in seeds:
        for name, stream in streams(int(rows), int(seed)).items():
            path = Path(folder, f"{name}-{seed}.csv")
            if not path.exists():
                write(path.with_suffix(".part"), stream)
                path.with_suffix(".part").rename(path)


main(*sys.argv[1:])
