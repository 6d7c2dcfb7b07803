"""The tree of errors: its documented shape, its two branches, and pickling of every class between processes."""

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
    "NoResponseError": "InDoubtError",
    "UnexpectedStatusError": "InDoubtError",
    "ProtocolError": "InDoubtError",
    "CampaignError": "MyMSPError",
    "CampaignStoppedError": "CampaignError",
    "CampaignCancelledError": "CampaignError",
    "JournalError": "MyMSPError",
    "ExportError": "MyMSPError",
}

#: An instance of each class, with every attribute set.
INSTANCES: list[MyMSPError] = [
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
    errors.NoResponseError("Något", reason="timeout"),
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


def test_the_tree_is_the_documented_one() -> None:
    assert {error_class.__name__: error_class.__bases__[0].__name__ for error_class in _classes()} == TREE
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line]
    for name, parent in TREE.items():
        [line] = [line for line in drawn if f" {name} " in f"{line} " and ("── " in line or line.strip() == name)]
        above = [entry for entry in drawn[: drawn.index(line)] if entry.index("Error") and _depth(entry) < _depth(line)]
        if parent != "Exception":
            assert f" {parent} " in f"{above[-1]} "


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" │├└─"))


def test_every_class_has_an_instance() -> None:
    assert {type(error).__name__ for error in INSTANCES} == set(TREE)


@pytest.mark.parametrize("error", INSTANCES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_copying(error: MyMSPError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = pickle.loads(pickle.dumps(error, protocol))
        pickled_again = pickle.loads(pickle.dumps(pickled, protocol))
        for copied in (pickled, pickled_again, copy.copy(error), copy.deepcopy(error)):
            assert type(copied) is type(error)
            assert (str(copied), copied.args, vars(copied)) == (str(error), error.args, vars(error))


def test_notes_survive_pickling() -> None:
    error = RefusedError(7, "no", "sendSms")
    error.add_note("row 12")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["row 12"]


def test_errors_do_not_carry_the_exceptions_they_hide() -> None:
    """Dask pickles contexts too, even those that ``from None`` hides in tracebacks."""
    first = RuntimeError("pwd=canary")

    def hiding() -> None:
        try:
            raise first
        except RuntimeError:
            raise errors.JournalError("Något") from None

    def chaining() -> None:
        try:
            raise first
        except RuntimeError as error:
            raise errors.JournalError("Något") from error

    def hiding_during_cleanup() -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(hiding)
            raise KeyError

    with pytest.raises(errors.JournalError) as caught:
        hiding()
    assert caught.value.__context__ is None
    with pytest.raises(errors.JournalError) as caught:
        chaining()
    assert caught.value.__cause__ is first
    with pytest.raises(errors.JournalError) as caught:
        hiding_during_cleanup()
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error_class", list(_classes()), ids=lambda error_class: error_class.__name__)
def test_no_error_is_both_not_sent_and_in_doubt(error_class: type[MyMSPError]) -> None:
    assert not issubclass(error_class, NotSentError) or not issubclass(error_class, InDoubtError)
    assert issubclass(error_class, ValueError) == issubclass(error_class, errors.InputError)


def test_errors_of_a_send_have_the_documented_parents() -> None:
    """The classes in the table "Was it sent?" of the protocol."""
    for not_sent in (RefusedError, errors.UnreachableError, errors.RateLimitedError, errors.InputError):
        assert issubclass(not_sent, NotSentError)
    for in_doubt in (errors.NoResponseError, errors.UnexpectedStatusError, errors.ProtocolError):
        assert issubclass(in_doubt, InDoubtError)


def test_a_refusal_says_its_code_meaning_and_endpoint() -> None:
    error = RefusedError(282, "the recipients are empty", "sendSms")
    assert all(part in str(error) for part in ("282", "the recipients are empty", "sendSms"))


def test_the_reason_names_the_status() -> None:
    assert errors.UnexpectedStatusError("Något", status=502).reason == "http-502"


def test_raw_responses_are_never_printed() -> None:
    for error in INSTANCES:
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
