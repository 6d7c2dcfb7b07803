"""The blocks: Prefect's standard tests, secrets, and invalid values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_mymsp import CampaignJournal, MyMSPCredentials
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.settings import MyMSPSettings
from prefect_mymsp.sync_client import MyMSPClient

SECRET = "canary-Pilgrimsfalk-04b1"


def make(**changes: Any) -> MyMSPCredentials:
    return MyMSPCredentials(**({"user": "anna", "password": SECRET} | changes))


class TestStandard(BlockStandardTestSuite):
    @pytest.fixture(params=[MyMSPCredentials, CampaignJournal])
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        block: type[Block] = request.param
        return block

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        # Prefect's test fetches the picture. Its address says as much without the network: https, and square.
        address = re.fullmatch(r"https://cdn\.sanity\.io/images/\S+-(\d+)x(\d+)\.png", str(block._logo_url))
        assert address is not None
        assert address[1] == address[2]
        assert 45 < int(address[1]) < 1000


def test_names_and_required_fields() -> None:
    assert MyMSPCredentials.get_block_type_slug() == "mymsp-credentials"
    assert MyMSPCredentials.get_block_type_name() == "myMSP Credentials"
    schema = MyMSPCredentials.model_json_schema()
    # A new field must be optional, or stored blocks stop loading.
    assert sorted(schema["required"]) == ["password", "user"]
    assert schema["secret_fields"] == ["password"]


def test_defaults() -> None:
    block = make()
    assert (block.base_url, block.timezone, block.timeout_s) == (
        "https://mymsp.21st.se/external",
        "Europe/Stockholm",
        30.0,
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://mymsp.example", "https://mymsp.example/external"),
        ("https://mymsp.example/other/", "https://mymsp.example/other"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/external"),
        ("http://localhost:8000/external/", "http://localhost:8000/external"),
    ],
)
def test_base_urls_are_normalised(given: str, kept: str) -> None:
    assert make(base_url=given).base_url == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "http://mymsp.example/external"}, "must be https"),
        ({"base_url": f"https://anna:{SECRET}@mymsp.example"}, "must not have credentials or a query"),
        ({"base_url": f"https://mymsp.example/external?pwd={SECRET}"}, "must not have credentials or a query"),
        ({"base_url": "mymsp.example"}, "must look like https://"),
        ({"base_url": "ftp://mymsp.example"}, "must look like https://"),
        ({"timezone": "Europe/Stockhlom"}, "no time zone 'Europe/Stockhlom'"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"timeout_s": 86_401}, "less than or equal to 86400"),
        ({"user": ""}, "at least 1 character"),
        ({"password": ""}, "at least 1 item"),
    ],
)
def test_invalid_values_are_refused_without_quoting_secrets(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        make(**changes)
    assert SECRET not in "".join(error["msg"] for error in caught.value.errors())


def test_the_password_is_not_shown() -> None:
    block = make()
    for shown in (repr(block), str(block), block.model_dump_json(), str(block.model_dump()), repr(block.get_client())):
        assert SECRET not in shown
    assert block.password.get_secret_value() == SECRET


def test_clients() -> None:
    block = make(base_url="http://127.0.0.1:8000", timezone="Europe/Helsinki", timeout_s=3.5)
    with block.get_client(retry_for_s=1.5) as client:
        assert isinstance(client, MyMSPClient)
        assert (client.base_url, client.zone.key) == ("http://127.0.0.1:8000/external", "Europe/Helsinki")
        assert (client.timeout_s, client.retry_for_s) == (3.5, 1.5)
    async_client = block.get_async_client(retry_for_s=2.5, connections=3)
    assert isinstance(async_client, AsyncMyMSPClient)
    assert (async_client.timeout_s, async_client.retry_for_s, async_client.connections) == (3.5, 2.5, 3)


def test_the_journal_block(tmp_path: Path) -> None:
    assert CampaignJournal.get_block_type_slug() == "mymsp-campaign-journal"
    assert CampaignJournal.model_json_schema()["required"] == ["url"]
    values: dict[str, Any] = {"url": f"postgresql://anna:{SECRET}@db.example/sms"}
    block = CampaignJournal(**values)
    assert SECRET not in repr(block) + block.model_dump_json()
    assert block.url.get_secret_value() == values["url"]
    values = {"url": f"sqlite:///{tmp_path}/elsewhere.db"}
    with CampaignJournal(**values).get_journal() as journal:
        assert journal.location.endswith("elsewhere.db")
    assert (tmp_path / "elsewhere.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError) as caught:
        CampaignJournal(url=SecretStr(f"mysql://anna:{SECRET}@db.example/sms")).get_journal()
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("prefect_harness")
def test_a_saved_block_keeps_its_secret() -> None:
    block = make(base_url="http://127.0.0.1:8000", timezone="Europe/Helsinki", timeout_s=3.5)
    block.save("round-trip", overwrite=True)
    loaded: Any = MyMSPCredentials.load("round-trip")
    assert isinstance(loaded, MyMSPCredentials)
    assert loaded.model_dump(exclude={"password"}) == block.model_dump(exclude={"password"})
    assert loaded.password.get_secret_value() == SECRET
    assert SECRET not in repr(loaded)


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefect_home: Path
) -> None:
    settings = MyMSPSettings()
    assert settings.journal_location() == prefect_home / "mymsp" / "journal.db"
    assert settings.reports_folder() == prefect_home / "mymsp" / "reports"
    assert settings.retry_for_s == 60.0
    url = f"postgresql://anna:{SECRET}@db.example/sms"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL", url)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_REPORTS", str(tmp_path))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_RETRY_FOR_S", "2.5")
    settings = MyMSPSettings()
    assert settings.journal_location() == url
    assert settings.reports_folder() == tmp_path
    assert settings.retry_for_s == 2.5
    assert SECRET not in repr(settings)
