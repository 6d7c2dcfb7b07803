"""The tree of errors: its shape as drawn, its fork, and that all of it survives a journey between processes."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Iterator

import pytest

from prefect_mymsp import errors
from prefect_mymsp.errors import InDoubtError, MyMSPError, NotSentError, RefusedError

#: Each class with its parent, as the module's docstring draws them.
TREE = {
    "MyMSPError": "Exception",
    "NotSentError": "MyMSPError",
    "InputError": "NotSentError",
    "ConfigurationError": "InputError",
    "SourceError": "InputError",
    "TemplateError": "InputError",
    "ChangedTextError": "InputError",
    "RepeatError": "InputError",
    "LimitError": "InputError",
    "NotApprovedError": "NotSentError",
    "RefusedError": "NotSentError",
    "UnreachableError": "NotSentError",
    "RateLimitedError": "NotSentError",
    "InDoubtError": "MyMSPError",
    "NoAnswerError": "InDoubtError",
    "UnexpectedStatusError": "InDoubtError",
    "ProtocolError": "InDoubtError",
    "CampaignError": "MyMSPError",
    "CampaignStoppedError": "CampaignError",
    "CampaignCancelledError": "CampaignError",
    "JournalError": "MyMSPError",
    "ExportError": "MyMSPError",
}

#: One of each, with every attribute set.
ONE_OF_EACH: list[MyMSPError] = [
    errors.MyMSPError("Något"),
    errors.NotSentError("Något"),
    errors.InputError("Något"),
    errors.ConfigurationError("Något"),
    errors.SourceError("Något"),
    errors.TemplateError("Något"),
    errors.ChangedTextError("Något", messages=2),
    errors.RepeatError("Något", messages=3),
    errors.LimitError("Något"),
    errors.NotApprovedError("Något"),
    errors.RefusedError(28, "a number is wrong", "sendSms"),
    errors.UnreachableError("Något"),
    errors.RateLimitedError("Något", retry_after_s=1.5),
    errors.RateLimitedError("Något", retry_after_s=None),
    errors.InDoubtError("Något", reason="timeout", raw=b"A\n\xff"),
    errors.NoAnswerError("Något", reason="timeout"),
    errors.UnexpectedStatusError("Något", status=502, raw=b""),
    errors.ProtocolError("Något", reason="html", raw=b"<html>"),
    errors.CampaignError("Något"),
    errors.CampaignStoppedError("Något", counts={"sent": 3, "planned": 7}),
    errors.CampaignCancelledError("Något"),
    errors.JournalError("Något"),
    errors.ExportError("Något"),
]


def _classes(root: type[MyMSPError] = MyMSPError) -> Iterator[type[MyMSPError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _classes(child)


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert {each.__name__: each.__bases__[0].__name__ for each in _classes()} == TREE
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    for name, parent in TREE.items():
        [line] = [line for line in drawn if f" {name} " in f"{line} " and ("── " in line or line.strip() == name)]
        above = [each for each in drawn[: drawn.index(line)] if each.index("Error") and _depth(each) < _depth(line)]
        if parent != "Exception":
            assert f" {parent} " in f"{above[-1]} "


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" │├└─"))


def test_one_of_each_is_here() -> None:
    assert {type(each).__name__ for each in ONE_OF_EACH} == set(TREE)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_errors_survive_the_journey(error: MyMSPError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        there = pickle.loads(pickle.dumps(error, protocol))
        back = pickle.loads(pickle.dumps(there, protocol))
        for each in (there, back, copy.copy(error), copy.deepcopy(error)):
            assert type(each) is type(error)
            assert (str(each), each.args, vars(each)) == (str(error), error.args, vars(error))


def test_notes_survive_the_journey() -> None:
    error = RefusedError(7, "no", "sendSms")
    error.add_note("row 12")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["row 12"]


def test_what_an_error_was_raised_from_stays_here_unless_it_is_meant() -> None:
    """Dask pickles contexts along, also those that ``from None`` keeps out of tracebacks."""
    first = RuntimeError("pwd=canary")

    def hiding() -> None:
        try:
            raise first
        except RuntimeError:
            raise errors.JournalError("Något") from None

    def telling() -> None:
        try:
            raise first
        except RuntimeError as error:
            raise errors.JournalError("Något") from error

    def failing_on_the_way_out() -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(hiding)
            raise KeyError

    with pytest.raises(errors.JournalError) as caught:
        hiding()
    assert caught.value.__context__ is None
    with pytest.raises(errors.JournalError) as caught:
        telling()
    assert caught.value.__cause__ is first
    with pytest.raises(errors.JournalError) as caught:
        failing_on_the_way_out()
    assert caught.value.__context__ is None


@pytest.mark.parametrize("each", list(_classes()), ids=lambda each: each.__name__)
def test_no_error_is_on_both_sides_of_the_fork(each: type[MyMSPError]) -> None:
    assert not issubclass(each, NotSentError) or not issubclass(each, InDoubtError)
    assert issubclass(each, ValueError) == issubclass(each, errors.InputError)


def test_which_side_the_answers_to_a_send_lie_on() -> None:
    """The table "Was it sent?" of the protocol, by class."""
    for not_sent in (RefusedError, errors.UnreachableError, errors.RateLimitedError, errors.InputError):
        assert issubclass(not_sent, NotSentError)
    for in_doubt in (errors.NoAnswerError, errors.UnexpectedStatusError, errors.ProtocolError):
        assert issubclass(in_doubt, InDoubtError)


def test_a_refusal_says_its_code_meaning_and_endpoint() -> None:
    error = RefusedError(282, "the recipients are empty", "sendSms")
    assert all(part in str(error) for part in ("282", "the recipients are empty", "sendSms"))


def test_the_status_is_the_reason() -> None:
    assert errors.UnexpectedStatusError("Något", status=502).reason == "http-502"


def test_raw_answers_are_never_printed() -> None:
    for error in ONE_OF_EACH:
        if isinstance(error, InDoubtError):
            assert "html" not in f"{error!s} {error!r}"
            assert b"<" not in repr(error.args).encode()


@pytest.mark.parametrize(
    ("names", "limit", "shown"),
    [
        ([], 12, ""),
        (["a"], 12, "'a'"),
        (["a", "b"], 2, "'a', 'b'"),
        (["a", "b", "c"], 2, "'a', 'b' and 1 more"),
    ],
)
def test_first_few(names: list[str], limit: int, shown: str) -> None:
    assert errors.first_few(names, limit) == shown
