"""The notification block: Prefect's standard tests, its validation, and the values it never shows."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import ValidationError

import prefect_mymsp
from prefect_mymsp import CampaignJournal, MyMSPCredentials, MyMSPNotification

SECRET = "canary-Pilgrimsfalk-04b1"
NUMBER = "46701740" + "605"


def make(**changes: Any) -> MyMSPNotification:
    account: Any = {"user": "anna", "password": SECRET}
    values: dict[str, Any] = {"credentials": MyMSPCredentials(**account), "recipients": [NUMBER]}
    return MyMSPNotification(**(values | changes))


class TestStandard(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return MyMSPNotification

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        # Prefect's test fetches the logo. All blocks share one; test_blocks.py checks its address.
        assert block._logo_url == MyMSPCredentials._logo_url


def test_slug_capabilities_and_required_fields() -> None:
    assert issubclass(MyMSPNotification, NotificationBlock)
    assert MyMSPNotification.get_block_type_slug() == "mymsp-notification"
    assert "notify" in MyMSPNotification.get_block_capabilities()
    schema = MyMSPNotification.model_json_schema()
    # A new field must be optional, or stored blocks stop loading.
    assert sorted(schema["required"]) == ["credentials", "recipients"]
    assert "credentials.password" in schema["secret_fields"]
    assert "MyMSPNotification" in prefect_mymsp.__all__


def test_default_values() -> None:
    block = make()
    assert (block.sender, block.max_segments, block.max_notifications, block.period_minutes, block.journal) == (
        None,
        1,
        5,
        60.0,
        None,
    )


def test_recipients_are_normalized_and_deduplicated() -> None:
    block = make(recipients=["+46 70-174 06 05", "0701740606", "46701740605", "0046701740605"])
    assert block.recipients == ["46701740605", "46701740606"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipients": []}, "at least 1 item"),
        ({"recipients": ["46701740606", "08-465 004 00"]}, "recipient 2 is not a mobile number"),
        ({"recipients": ["Anna"]}, "recipient 1 is not a mobile number"),
        ({"recipients": [""]}, "recipient 1 is not a mobile number"),
        ({"sender": ""}, "at least 1 character"),
        ({"max_segments": 0}, "greater than or equal to 1"),
        ({"max_segments": 6}, "less than or equal to 5"),
        ({"max_notifications": 0}, "greater than or equal to 1"),
        ({"period_minutes": 0}, "greater than 0"),
        ({"period_minutes": float("inf")}, "finite number"),
        ({"period_minutes": float("nan")}, "finite number"),
    ],
)
def test_invalid_values_are_refused_without_quoting_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        make(**changes)
    assert not re.search("701740606|465 004|Anna", str(caught.value) + repr(caught.value))


ACCOUNT = {"user": "anna", "password": SECRET}


@pytest.mark.parametrize(
    ("model", "stored"),
    [
        (MyMSPNotification, {"credentials": {"password": SECRET}, "recipients": [NUMBER]}),
        (MyMSPNotification, {"credentials": ACCOUNT | {"timeout_s": SECRET}, "recipients": [NUMBER]}),
        (MyMSPNotification, {"credentials": ACCOUNT, "recipients": NUMBER}),
        (MyMSPNotification, {"credentials": ACCOUNT}),
        (MyMSPNotification, {"recipients": [NUMBER]}),
        (MyMSPCredentials, {"password": SECRET}),
        (MyMSPCredentials, {"user": "anna", "password": [SECRET]}),
        (MyMSPCredentials, ACCOUNT | {"base_url": f"https://a:{SECRET}@x.example"}),
        (CampaignJournal, {"uri": SECRET}),
    ],
)
def test_a_validation_error_never_quotes_the_stored_values(model: type[Block], stored: dict[str, Any]) -> None:
    # Prefect's server shows this error in the event of the failed action.
    with pytest.raises(ValidationError) as caught:
        model.model_validate(stored)
    assert not re.search(f"{SECRET}|701740", str(caught.value) + repr(caught.value))


def test_repr_json_and_topic_hide_secrets_and_numbers() -> None:
    journal: Any = {"url": f"postgresql://anna:{SECRET}@db.example/sms"}
    block = make(journal=CampaignJournal(**journal))
    for text in (repr(block), str(block)):
        assert SECRET not in text
        assert NUMBER not in text
    assert SECRET not in block.model_dump_json()
    assert NUMBER not in block._topic()
    copied = pickle.loads(pickle.dumps(block))
    assert copied.credentials.password.get_secret_value() == SECRET


def test_unsaved_blocks_with_the_same_recipients_share_a_topic() -> None:
    other = "46701740606"
    assert make(recipients=[NUMBER, other])._topic() == make(recipients=[other, NUMBER])._topic()
    assert make()._topic() != make(recipients=[other])._topic()
