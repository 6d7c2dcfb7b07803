"""Settings: ``PREFECT_INTEGRATIONS_MYMSP_*`` in the environment, ``[integrations.mymsp]`` in ``prefect.toml``."""

from __future__ import annotations

from pathlib import Path

from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field, SecretStr

from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, MAX_TRACKING_DAYS


class MyMSPSettings(PrefectBaseSettings):
    """Defaults of the flows."""

    model_config = build_settings_config(("integrations", "mymsp"))

    journal_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of the journal, in SQLite or PostgreSQL. "
        "The default is mymsp/journal.db in Prefect's home.",
    )
    reports: Path | None = Field(
        default=None,
        description="Folder for delivery reports. The default is mymsp/reports in Prefect's home.",
    )
    retry_for_s: float = Field(
        default=60.0,
        description="Seconds to retry while the gateway cannot be reached or returns HTTP 429.",
        ge=0,
    )
    tracking_days: float = Field(
        default=DEFAULT_TRACKING_DAYS,
        description="Days for which a message is tracked after its delivery time. After that its outcome is final. "
        "Flows that track and flows that export must use the same value.",
        gt=0,
        le=MAX_TRACKING_DAYS,
    )

    def journal_location(self) -> str | Path:
        """URL or path of the journal. It may contain a password: do not print it."""
        if self.journal_url is not None:
            return self.journal_url.get_secret_value()
        return get_current_settings().home / "mymsp" / "journal.db"

    def reports_folder(self) -> Path:
        """The folder for delivery reports; it may not exist yet."""
        return (self.reports or get_current_settings().home / "mymsp" / "reports").expanduser()
