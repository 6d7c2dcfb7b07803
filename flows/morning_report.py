"""Every morning: what became of the messages since yesterday, as a page to look at."""

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from prefect import flow, runtime

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import export_delivery_report
from prefect_mymsp.models import ReportFormat


@flow
def morning_report(credentials: MyMSPCredentials, folder: Path) -> None:
    """Write ``folder/<day>.html`` on the messages that left yesterday or today."""
    start = datetime.fromtimestamp(
        runtime.flow_run.get_scheduled_start_time().timestamp(), ZoneInfo(credentials.timezone)
    )
    today = start.replace(hour=0, minute=0, second=0, microsecond=0)
    export_delivery_report(
        credentials,
        since=today - timedelta(days=1),
        format=ReportFormat.HTML,
        path=folder / f"{today:%Y-%m-%d}.html",
    )
