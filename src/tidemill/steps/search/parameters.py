"""Parameters set by a user, as `--set logistic.C=0.5` or in a request's JSON: checked and typed.

A parameter's type is known from the candidate: the annotation in its signature, its default, the
values that it is set to or searched over, and for scikit-learn's own estimators their constraints.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ProjectError
from tidemill.project import Candidate, Project

Settings = dict[str, Any]
Overrides = dict[str, Settings]

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "none",
}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class ParameterType:
    """The values that a parameter accepts; without kinds and choices, any value.

    Attributes:
        kinds: Types of accepted values.
        choices: Accepted values.
        none: Whether None (or the text "none") is accepted.
    """

    kinds: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    none: bool = False

    def describe(self) -> str:
        words = [repr(choice) for choice in self.choices]
        words += [_WORDS.get(kind, kind.__name__) for kind in self.kinds]
        words += ["none"] if self.none else []
        return " or ".join(words) or "any value"


def parse_overrides(project: Project, texts: Iterable[str]) -> Overrides:
    """Parse texts such as `logistic.C=0.5` into parameters by candidate.

        parse_overrides(project, ["logistic.C=0.5"])      {"logistic": {"C": 0.5}}

    The candidate can be omitted if only one candidate has the parameter.

    Raises:
        ProjectError: A text has no `=`, names an unknown candidate or parameter, or one that
            several candidates have, or its value is of another type; the message names it.
    """
    found: Overrides = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ProjectError(
                f"'{text}' does not set a parameter.",
                field=text,
                expected="candidate.parameter=value",
            )
        candidate, parameter = _resolve(project, name.strip())
        value = _from_text(candidate, parameter, value.strip())
        found.setdefault(candidate.name, {})[parameter] = value
    _check_by_estimator(project, found)
    return found


def check_params(project: Project, params: Mapping[str, Any]) -> Overrides:
    """Check a JSON object of parameters, and return them by candidate.

    `{"logistic.C": 0.5}`, `{"logistic": {"C": 0.5}}` and, if only one candidate has the parameter,
    `{"C": 0.5}` are equivalent.

    Raises:
        ProjectError: As for `parse_overrides`.
    """
    found: Overrides = {}
    names = {candidate.name for candidate in project.candidates}
    for name, value in params.items():
        nested = isinstance(value, Mapping) and name in names
        for key, item in value.items() if nested else [(name, value)]:
            candidate, parameter = _resolve(project, f"{name}.{key}" if nested else name)
            typed = _typed(candidate, parameter, item, shown=name)
            found.setdefault(candidate.name, {})[parameter] = typed
    _check_by_estimator(project, found)
    return found


def _resolve(project: Project, name: str) -> tuple[Candidate, str]:
    """The candidate and the parameter that a name refers to."""
    first, dot, rest = name.partition(".")
    names = [candidate.name for candidate in project.candidates]
    if dot and first in names:
        candidate = project.candidate(first)
        _require_parameter(candidate, rest)
        return candidate, rest
    if dot:
        raise ProjectError(
            f"There is no candidate '{first}' with a parameter '{rest}'.",
            field=name,
            expected=f"one of {', '.join(names)}",
        )
    owners = [candidate for candidate in project.candidates if _has(candidate, name)]
    if len(owners) == 1:
        return owners[0], name
    if not owners:
        _raise_unknown(project.candidates, name)
    options = ", ".join(f"{candidate.name}.{name}" for candidate in owners)
    raise ProjectError(
        f"Several candidates have a parameter '{name}'.", field=name, expected=f"one of {options}"
    )


def _has(candidate: Candidate, parameter: str) -> bool:
    accepted = candidate.parameters()
    return accepted is None or parameter in accepted


def _require_parameter(candidate: Candidate, parameter: str) -> None:
    if not _has(candidate, parameter):
        _raise_unknown([candidate], parameter)


def _raise_unknown(candidates: Sequence[Candidate], parameter: str) -> typing.NoReturn:
    known = sorted({name for candidate in candidates for name in candidate.parameters() or ()})
    who = f"Candidate '{candidates[0].name}'" if len(candidates) == 1 else "No candidate"
    verb = "has no" if len(candidates) == 1 else "has a"
    raise ProjectError(
        f"{who} {verb} parameter '{parameter}'.",
        field=parameter,
        expected=f"one of {', '.join(known)}",
    )


def parameter_type(candidate: Candidate, parameter: str) -> ParameterType:
    """The values that a candidate's parameter accepts, as far as the project shows."""
    hint = _annotation(candidate, parameter)
    if hint is not None:
        return _from_hint(hint)
    if parameter in getattr(candidate.estimator, "_parameter_constraints", ()):
        return ParameterType()  # its own constraints are more exact than a default
    values = list(_known_values(candidate, parameter))
    kinds = dict.fromkeys(type(value) for value in values if value is not None)
    simple = tuple(kind for kind in kinds if kind in _WORDS)
    if len(simple) < len(kinds) or not kinds:
        return ParameterType()
    return ParameterType(simple, none=None in values)


def _annotation(candidate: Candidate, parameter: str) -> Any:
    """The annotation of a candidate's parameter, if it can be checked."""
    if not callable(candidate.estimator) or hasattr(candidate.estimator, "get_params"):
        return None
    try:
        return typing.get_type_hints(candidate.estimator).get(parameter)
    except (NameError, TypeError):  # only a type checker can resolve the annotation
        return None


def _from_hint(hint: Any) -> ParameterType:
    """Interpret `float`, `int | None`, `Literal["l1", "l2"]` and unions of them; else any value."""
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        return ParameterType(
            choices=tuple(c for c in choices if c is not None), none=None in choices
        )
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_from_hint(arg) for arg in typing.get_args(hint)]
        if any(part == ParameterType() for part in parts):
            return ParameterType()
        kinds = tuple(kind for part in parts for kind in part.kinds)
        choices = tuple(choice for part in parts for choice in part.choices)
        return ParameterType(kinds, choices, none=any(part.none for part in parts))
    if hint in (None, type(None)):
        return ParameterType(none=True)
    return ParameterType((hint,)) if hint in _WORDS else ParameterType()


def _known_values(candidate: Candidate, parameter: str) -> Iterable[Any]:
    """The default, the fixed value and the values to search."""
    default = (candidate.parameters() or {}).get(parameter, inspect.Parameter.empty)
    if default is not inspect.Parameter.empty:
        yield default
    if parameter in candidate.params:
        yield candidate.params[parameter]
    yield from candidate.search.get(parameter, ())


def _from_text(candidate: Candidate, parameter: str, text: str) -> Any:
    accepted = parameter_type(candidate, parameter)
    for value in _readings(text, accepted):
        if _fits(value, accepted):
            return _as_accepted(value, accepted)
    raise _type_error(candidate, parameter, text, accepted)


def _readings(text: str, accepted: ParameterType) -> Iterable[Any]:
    """The values that a text may stand for, the most likely first."""
    if text.lower() in ("none", "null"):
        yield None
    if text.lower() in _TRUTHS:
        yield _TRUTHS[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        yield ast.literal_eval(text)
    for number in (int, float):
        try:
            yield number(text)
        except ValueError:
            continue
    yield text


def _typed(candidate: Candidate, parameter: str, value: Any, *, shown: str) -> Any:
    accepted = parameter_type(candidate, parameter)
    if not _fits(value, accepted):
        raise _type_error(candidate, parameter, value, accepted, field=shown)
    return _as_accepted(value, accepted)


def _fits(value: Any, accepted: ParameterType) -> bool:
    if accepted == ParameterType():
        return True
    if value is None:
        return accepted.none
    if any(type(value) is type(choice) and value == choice for choice in accepted.choices):
        return True
    return any(_is_a(value, kind) for kind in accepted.kinds)


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def _as_accepted(value: Any, accepted: ParameterType) -> Any:
    """Convert 1 to 1.0 where a float is accepted, and 3.0 to 3 where an int is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if type(value) in accepted.kinds or value in accepted.choices:
        return value
    for kind in (int, float):
        if kind in accepted.kinds and _is_a(value, kind):
            return kind(value)
    return value


def _type_error(
    candidate: Candidate,
    parameter: str,
    value: Any,
    accepted: ParameterType,
    *,
    field: str | None = None,
) -> ProjectError:
    expected = accepted.describe()
    return ProjectError(
        f"Parameter '{parameter}' of candidate '{candidate.name}' is {value!r}; "
        f"expected {expected}.",
        field=field or f"{candidate.name}.{parameter}",
        expected=expected,
    )


def _check_by_estimator(project: Project, overrides: Overrides) -> None:
    """Check the values against the constraints that scikit-learn's estimators declare."""
    for name, params in overrides.items():
        candidate = project.candidate(name)
        if not hasattr(candidate.estimator, "_parameter_constraints"):
            continue  # calling a function may need what only a worker has; its annotations suffice
        check = getattr(candidate.build(**params), "_validate_params", lambda: None)
        try:
            check()
        except ValueError as error:
            culprit = next((p for p in params if f"'{p}'" in str(error)), None)
            if culprit is not None:  # a fault of another parameter fails in its own run
                raise ProjectError(str(error), field=f"{name}.{culprit}") from error
