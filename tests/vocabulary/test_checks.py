"""Each check of a setting at its bounds; no other module checks numbers by hand."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_ticks as tt
from trio_ticks.checks import (
    check_callable,
    check_count,
    check_exceptions,
    check_flag,
    check_fraction,
    check_instance,
    check_number,
    check_seconds,
    check_text,
    check_word,
    checked,
    is_index,
    is_number,
    is_whole,
)
from trio_ticks.errors import ConfigError
from trio_ticks.exchange import ClientLimits, ExchangeConfig

PACKAGE = Path(tt.__file__).parent
HUGE = 10**400
"""Too large to be a float: math.isnan() raises OverflowError for it."""
NO_NUMBERS: list[Any] = [True, False, None, "1", [1], 1j, math.nan, -math.inf]


class Index:
    """Stands for NumPy's whole numbers."""

    def __index__(self) -> int:
        return 1


def message(check: Callable[..., None], value: object, **limits: Any) -> str:
    """Return the error of *check* about *value*, or nothing if it accepts it."""
    try:
        check("setting", value, **limits)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("check", "limits", "good", "bad"),
    [
        (check_count, {}, [1, 2, HUGE], [0, -1, 1.0, math.inf]),
        (check_count, {"least": 4096}, [4096], [4095]),
        (check_count, {"least": 0, "below": 65536}, [0, 65535], [-1, 65536]),
        (check_number, {}, [0, 0.0, 1e308, HUGE], [-1e-9, math.inf]),
        (check_number, {"infinite": True}, [0, math.inf], [-1]),
        (check_number, {"least": 0.1}, [0.1], [0.09]),
        (check_number, {"above": 0.0}, [5e-324, HUGE], [0, -1, math.inf]),
        (check_number, {"below": 1.0}, [0, 0.999], [1, 1.5, math.inf]),
        (check_seconds, {}, [0, 0.5, HUGE], [-1e-9, math.inf]),
        (check_seconds, {"infinite": True}, [0, math.inf], [-1]),
        (check_seconds, {"positive": True}, [5e-324], [0, -1, math.inf]),
        (check_seconds, {"positive": True, "infinite": True}, [5e-324, math.inf], [0]),
        (check_fraction, {}, [5e-324, 0.5, 0.999], [0, 1, 1.5, math.inf]),
    ],
)
def test_numbers_at_the_bounds(
    check: Callable[..., None], limits: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    assert [value for value in good if message(check, value, **limits)] == []
    assert [value for value in (*bad, *NO_NUMBERS) if not message(check, value, **limits)] == []
    if check is not check_fraction:
        assert not message(check, None, or_none=True, **limits)
        assert message(check, False, or_none=True, **limits).count(", or None, got False") == 1


@pytest.mark.parametrize(
    ("check", "limits", "value", "said"),
    [
        (check_count, {}, 0, "a whole number, 1 or more, got 0"),
        (
            check_count,
            {"also": ', or "auto"'},
            "x",
            """a whole number, 1 or more, or "auto", got 'x'""",
        ),
        (
            check_count,
            {"of": "ticks", "or_none": True},
            1.5,
            "a whole number of ticks, 1 or more, or None, got 1.5",
        ),
        (
            check_count,
            {"least": 0, "below": 65536},
            65536,
            "a whole number, 0 or more and less than 65536, got 65536",
        ),
        (check_number, {"above": 0.0}, 0, "a finite number, more than 0, got 0"),
        (check_number, {"above": 0.0, "infinite": True}, 0, "a number, more than 0, got 0"),
        (check_number, {"below": 1.0}, 1, "a number, 0 or more and less than 1, got 1"),
        (check_fraction, {}, 1, "a number, more than 0 and less than 1, got 1"),
        (
            check_number,
            {"below": 2e6},
            2e6,
            "a number, 0 or more and less than 2000000, got 2000000.0",
        ),
        (check_seconds, {}, math.inf, "a finite number of seconds, 0 or more, got inf"),
        (check_seconds, {"infinite": True}, -1, "a number of seconds, 0 or more, got -1"),
        (
            check_seconds,
            {"positive": True, "or_none": True},
            0,
            "a positive, finite number of seconds, or None, got 0",
        ),
        (
            check_seconds,
            {"positive": True, "infinite": True},
            0,
            "a positive number of seconds, got 0",
        ),
        (check_word, {"words": ("a", "b")}, "c", """"a" or "b", got 'c'"""),
        (check_word, {"words": ("a", "b", "c")}, [], '"a", "b" or "c", got []'),
        (check_word, {"words": ("a",)}, 1, '"a", got 1'),
        (check_text, {}, "", "a text, and not empty, got ''"),
        (check_text, {}, 1, "a text, and not empty, got 1"),
        (check_flag, {}, 1, "True or False, got 1"),
        (
            check_instance,
            {"kind": str, "shown": "a name", "or_none": True},
            1,
            "a name or None, got 1",
        ),
        (check_callable, {"shown": "a function", "or_none": True}, 1, "a function, got 1"),
        (check_callable, {"shown": "a function"}, None, "a function, got None"),
    ],
)
def test_messages_say_what_the_setting_must_be(
    check: Callable[..., None], limits: dict[str, Any], value: object, said: str
) -> None:
    assert message(check, value, **limits) == f"setting must be {said}"


def test_what_is_accepted() -> None:
    assert not message(check_word, "b", words=("a", "b"))
    assert not message(check_text, "x")
    assert not message(check_flag, False)
    assert not message(check_instance, "x", kind=str, shown="a name")
    assert not message(check_instance, None, kind=str, shown="a name", or_none=True)
    assert not message(check_callable, print, shown="a function")
    assert not message(check_callable, None, shown="a function", or_none=True)
    assert not message(check_exceptions, (OSError, Exception), shown="classes")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ((), "()"),
        ((3,), "3"),
        ((OSError, 3), "(<class 'OSError'>, 3)"),
        ((BaseException,), "<class 'BaseException'>"),
    ],
)
def test_what_is_no_exception_to_try_again_after(value: tuple[object, ...], got: str) -> None:
    assert (
        message(check_exceptions, value, shown="classes") == f"setting must name classes, got {got}"
    )


def test_what_a_number_is() -> None:
    assert is_whole(1)
    assert is_whole(HUGE)
    assert not any(is_whole(value) for value in (True, 1.0, None, Index()))
    assert is_number(math.inf)
    assert is_number(HUGE)
    assert not any(is_number(value) for value in (True, math.nan, "1", None))
    assert is_index(1)
    assert is_index(Index())
    assert not any(is_index(value) for value in (True, 1.0, None))


def test_a_check_is_a_validator_of_attrs() -> None:
    @attrs.frozen
    class Settings:
        size: int = attrs.field(validator=checked(check_count, least=2))

    assert Settings(2).size == 2
    with pytest.raises(ConfigError, match="size must be a whole number, 2 or more, got 1"):
        Settings(1)


@pytest.mark.parametrize(
    "settings", [{"port": 80.5}, {"limit": 1.5}, {"limit": 0}, {"port": -1}], ids=repr
)
def test_an_exchange_counts_in_whole_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be a whole number"):
        ExchangeConfig(**settings)


@pytest.mark.parametrize("name", ["buffer_bytes", "socket_buffer_bytes"])
def test_a_buffer_has_a_whole_number_of_bytes(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
        ClientLimits(**{name: 5000.5})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "make",
    [
        lambda: tt.DropNewest(timeout=HUGE),
        lambda: tt.BackoffPolicy(maximum_s=HUGE),
        lambda: tt.Throttle(priorities={"A": HUGE}),
        lambda: ExchangeConfig(rate=HUGE),
    ],
    ids=["DropNewest", "BackoffPolicy", "Throttle", "ExchangeConfig"],
)
def test_a_number_too_large_for_a_float_is_no_other_error(make: Callable[[], object]) -> None:
    make()


HAND_WRITTEN = {
    "ticks.py",  # the numbers of a tick: Decimal is one, and it is converted
    # being rewritten: check_count("maxsize", maxsize, of="ticks")
}
"""Modules that may ask for a bool themselves, and why."""


def asks_for_bool(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"):
        return False
    kinds = node.args[1]
    return any(isinstance(kind, ast.Name) and kind.id == "bool" for kind in ast.walk(kinds))


def test_no_other_module_tells_numbers_from_bools() -> None:
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(map(asks_for_bool, ast.walk(ast.parse(path.read_text()))))
    }
    assert asking - HAND_WRITTEN == {"checks.py"}
